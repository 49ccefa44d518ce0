package bot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-github/v60/github"

	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// ChecksConfig is what Checks needs.
type ChecksConfig struct {
	APIURL      string                                // default https://api.github.com
	Owner, Repo string                                // of the policy repository
	Name        string                                // the enforcer's, in the check's name
	Token       func(context.Context) (string, error) // of the App's installation
	Client      *http.Client

	Now   func() time.Time
	Sleep func(context.Context, time.Duration) error // nil: by the wall clock
	Log   *slog.Logger                               // nil: silent
}

// Checks shows on the policy's commits, as GitHub check runs, what an enforcer
// made of them, and on the one in force the newest checkpoint of the record,
// with what happened in numbers. They are pointers for people, and an anchor while the host keeps them; the
// record is the audit log. Nothing waits for them: what cannot be sent is sent
// later, and only the newest state of a commit is.
type Checks struct {
	ChecksConfig
	api   *github.Client
	dirty chan struct{}

	mu         sync.Mutex
	runs       map[string]*checkRun // by commit
	order      []string
	inForce    string
	checkpoint string
	sum        Counts // under the policy in force, in this run
	news       Counts // of them: since GitHub was told
}

type checkRun struct {
	id         int64 // GitHub's; 0 while there is none
	conclusion string
	title      string
	detail     string // as text
	problems   rules.Problems
	version    int  // of what is to be shown
	sent       int  // the version that GitHub has
	patient    bool // all that is new is the checkpoint
	sentAt     time.Time
}

// checkpointEvery is slow enough for a busy enforcer: GitHub's secondary limit
// is 80 writes a minute, for all of an installation.
const checkpointEvery = time.Minute

// Old commits' runs are not tracked beyond this many.
const maxRuns = 100

// NewChecks returns Checks that Run sends.
func NewChecks(c ChecksConfig) (*Checks, error) {
	if c.Owner == "" || c.Repo == "" || c.Token == nil {
		return nil, errors.New("checks: owner, repo and a token source are needed")
	}
	if c.Client == nil {
		c.Client = &http.Client{Timeout: callLimit}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	api := github.NewClient(c.Client)
	if c.APIURL != "" {
		base, err := url.Parse(strings.TrimSuffix(c.APIURL, "/") + "/")
		if err != nil {
			return nil, fmt.Errorf("checks: API URL: %w", err)
		}
		api.BaseURL = base
	}
	return &Checks{ChecksConfig: c, api: api, dirty: make(chan struct{}, 1), runs: map[string]*checkRun{}}, nil
}

// InForce says that commit is in force. It does not wait.
func (c *Checks) InForce(commit, signer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inForce != commit && c.inForce != "" {
		if old := c.runs[c.inForce]; old != nil {
			old.title, old.version, old.patient = "was in force, replaced by "+short(commit), old.version+1, false
		}
	}
	if c.inForce != commit {
		c.sum, c.news = Counts{}, Counts{}
	}
	c.inForce = commit
	c.set(commit, checkRun{conclusion: "success", title: "in force", detail: "signed by " + orElse(signer, "nobody that was checked")})
}

// Rejected says that commit was refused, and why: rules.Problems become
// annotations on their lines. It does not wait.
func (c *Checks) Rejected(commit string, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := checkRun{conclusion: "failure", title: "rejected: the last good policy stays in force", detail: why.Error()}
	var problems rules.Problems
	if errors.As(why, &problems) {
		r.problems = problems
	}
	c.set(commit, r)
}

// Checkpoint gives the newest signed checkpoint of the record. It does not
// wait; it is sent at most once a minute.
func (c *Checks) Checkpoint(note string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checkpoint = note
	if r := c.runs[c.inForce]; r != nil {
		r.patient = r.version == r.sent || r.patient
		r.version++
		c.wake()
	}
}

// Count adds what was published under the policy in force. It is shown with the
// next checkpoint.
func (c *Checks) Count(n Counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum, c.news = c.sum.plus(n), c.news.plus(n)
}

func (c *Checks) set(commit string, r checkRun) {
	if have := c.runs[commit]; have != nil {
		r.id, r.version, r.sent, r.sentAt = have.id, have.version, have.sent, have.sentAt
	} else {
		c.order = append(c.order, commit)
		if len(c.order) > maxRuns {
			delete(c.runs, c.order[0])
			c.order = c.order[1:]
		}
	}
	r.version++
	c.runs[commit] = &r
	c.wake()
}

func (c *Checks) wake() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// Run sends what is new until ctx ends.
func (c *Checks) Run(ctx context.Context) error {
	pause := time.Second
	for {
		commit, r, shown, later := c.next()
		if r == nil && later {
			if err := c.Sleep(ctx, time.Second); err != nil {
				return err
			}
			continue
		}
		if r == nil {
			select {
			case <-c.dirty:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := c.send(ctx, commit, r, shown)
		wait := time.Duration(0)
		var limit *github.RateLimitError
		var abuse *github.AbuseRateLimitError
		var answer *github.ErrorResponse
		switch {
		case err == nil:
			pause = time.Second
			c.done(commit, r)
			c.told(shown)
			wait = time.Second // between writes, as GitHub asks
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &limit):
			wait = max(limit.Rate.Reset.Sub(c.Now()), time.Second)
		case errors.As(err, &abuse):
			wait = max(abuse.GetRetryAfter(), time.Second)
		case errors.As(err, &answer) && answer.Response.StatusCode == http.StatusNotFound && r.id != 0:
			c.lost(commit) // the host deleted the run: make another
		case errors.As(err, &answer) && answer.Response.StatusCode == http.StatusUnprocessableEntity:
			c.Log.ErrorContext(ctx, "github refused a check run; it is not sent again", "commit", commit, "error", err)
			c.done(commit, r)
		default:
			wait = pause
			pause = min(2*pause, 5*time.Minute)
			c.Log.WarnContext(ctx, "github: a check run could not be sent; trying again", "commit", commit, "error", err, "pause", wait)
		}
		if err := c.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// next returns a copy of a run that GitHub does not have yet, the newest first,
// or tells that there will be one later.
func (c *Checks) next() (commit string, r *checkRun, show published, later bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.order) - 1; i >= 0; i-- {
		commit = c.order[i]
		have := c.runs[commit]
		if have.version != have.sent && have.patient && c.Now().Sub(have.sentAt) < checkpointEvery {
			later = true
			continue
		}
		if have.version != have.sent {
			one := *have
			if commit == c.inForce {
				show = published{c.checkpoint, c.sum, c.news}
			}
			return commit, &one, show, false
		}
	}
	return "", nil, published{}, later
}

func (c *Checks) done(commit string, r *checkRun) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.runs[commit]; have != nil {
		have.id, have.sent, have.sentAt = r.id, r.version, c.Now()
		have.patient = have.patient && have.version != r.version
	}
}

func (c *Checks) lost(commit string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.runs[commit]; have != nil {
		have.id = 0
	}
}

func (c *Checks) send(ctx context.Context, commit string, r *checkRun, show published) error {
	token, err := c.Token(ctx)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	api := c.api.WithAuthToken(token)
	name := "Countersign"
	if c.Name != "" {
		name += " / " + c.Name
	}
	now := github.Timestamp{Time: c.Now().UTC()}
	out := r.output(short(commit)+" "+r.title, show)
	if r.id == 0 {
		run, _, err := api.Checks.CreateCheckRun(ctx, c.Owner, c.Repo, github.CreateCheckRunOptions{Name: name, HeadSHA: commit,
			Status: github.String("completed"), Conclusion: &r.conclusion, CompletedAt: &now, Output: out})
		if err != nil {
			return err
		}
		r.id = run.GetID()
		return nil
	}
	// Annotations add up with each update: they were sent when it was made.
	out.Annotations = nil
	_, _, err = api.Checks.UpdateCheckRun(ctx, c.Owner, c.Repo, r.id, github.UpdateCheckRunOptions{Name: name,
		Status: github.String("completed"), Conclusion: &r.conclusion, CompletedAt: &now, Output: out})
	return err
}

// output sets everything that others wrote as indented code, in which Markdown
// finds no links, images or mentions.
func (r *checkRun) output(title string, show published) *github.CheckRunOutput {
	var s strings.Builder
	fmt.Fprintf(&s, "The policy at this commit is %s.\n\n%s", r.title, code(r.detail, 20_000))
	s.WriteString(show.markdown())
	out := &github.CheckRunOutput{Title: github.String(title), Summary: github.String(s.String())}
	for i, p := range r.problems {
		if i == 50 { // GitHub's bound for one request; the summary has them all
			break
		}
		line := max(p.Line, 1)
		message, _ := tell.Visible(p.Msg, true, 2000)
		out.Annotations = append(out.Annotations, &github.CheckRunAnnotation{Path: github.String(p.File), StartLine: &line, EndLine: &line,
			AnnotationLevel: github.String("failure"), Message: &message})
	}
	return out
}

func code(text string, limit int) string {
	shown, _ := tell.Visible(text, true, limit)
	return "    " + strings.ReplaceAll(strings.TrimRight(shown, "\n"), "\n", "\n    ") + "\n"
}

func short(commit string) string { return fmt.Sprintf("%.7s", commit) }
