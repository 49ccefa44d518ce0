# Two images of the same binary: `countersign`, which holds nothing else, and `countersign-node`,
# with Node for MCP servers that Countersign spawns. Both run as a user without a name or rights,
# on a read-only root:
#
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -v countersign-state:/var/lib/countersign --tmpfs /tmp -p 8080:8080 --env-file … countersign
#
# The bases are arguments, so that they can be pinned by digest, mirrored, or made locally.
ARG BUILD_BASE=golang:1.26-bookworm
ARG RUN_BASE=scratch
ARG NODE_BASE=node:22-bookworm-slim

FROM ${BUILD_BASE} AS build
ARG VERSION=dev
ENV CGO_ENABLED=0 GOFLAGS=-buildvcs=false
WORKDIR /src
# The modules change less often than the sources: a layer of their own.
COPY go.mod go.sum ./
RUN go mod download
COPY rules rules
COPY gitsync gitsync
COPY audit audit
COPY enforcer enforcer
COPY bot bot
COPY cmd/countersign cmd/countersign
RUN go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/usr/bin/countersign ./cmd/countersign
# What a bare base lacks: who to trust, where to write. The state belongs to the user below.
RUN mkdir -p /out/etc/ssl/certs /out/var/lib/countersign /out/tmp \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && chmod 0700 /out/var/lib/countersign && chmod 1777 /out/tmp \
 && chown 65532:65532 /out/var/lib/countersign

FROM ${RUN_BASE} AS countersign
COPY --from=build /out/ /
ENV COUNTERSIGN_STATE_DIR=/var/lib/countersign COUNTERSIGN_LISTEN=:8080
VOLUME /var/lib/countersign
EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/bin/countersign", "health"]
ENTRYPOINT ["/usr/bin/countersign"]
CMD ["serve"]

FROM ${NODE_BASE} AS countersign-node
COPY --from=build /out/ /
ENV COUNTERSIGN_STATE_DIR=/var/lib/countersign COUNTERSIGN_LISTEN=:8080
VOLUME /var/lib/countersign
EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/bin/countersign", "health"]
ENTRYPOINT ["/usr/bin/countersign"]
CMD ["serve"]
