package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// healthCommand asks the enforcer of the same environment whether it is ready:
// the container's health check, which needs no shell and no curl.
func healthCommand() *cobra.Command {
	var base string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running enforcer whether it is ready (exit 1 if not)",
		Long: `Asks /readyz of the enforcer on this machine, at COUNTERSIGN_LISTEN, or at --url.
Prints the answer; exits 0 when it is ready, 1 when it is not or does not answer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if base == "" {
				base = localURL()
			}
			client := &http.Client{Timeout: 4 * time.Second, Transport: &http.Transport{
				// The check goes to this machine only; the certificate names the public host.
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			}}
			resp, err := client.Get(base + "/readyz")
			if err != nil {
				fmt.Fprintln(cmd.OutOrStdout(), "not ready:", err)
				return errFound
			}
			defer resp.Body.Close()
			if _, err := io.Copy(cmd.OutOrStdout(), io.LimitReader(resp.Body, 64<<10)); err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&base, "url", "", "base URL of the enforcer, instead of COUNTERSIGN_LISTEN on this machine")
	return cmd
}

// localURL is where the enforcer of this environment listens, as seen from its
// own machine.
func localURL() string {
	listen := os.Getenv("COUNTERSIGN_LISTEN")
	if listen == "" {
		listen = "127.0.0.1:8080"
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "http://" + listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if os.Getenv("COUNTERSIGN_TLS_CERT") != "" {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
