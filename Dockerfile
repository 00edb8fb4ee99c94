# holdoff in a container: one binary, the machine's CA bundle, no shell, user 65532.
#
#   docker build -t holdoff:0.1.0 .
#
# Addresses come from flags or from HOLDOFF_LISTEN, HOLDOFF_ADMIN and HOLDOFF_METRICS; nothing is baked in, so the
# defaults are those of the program: loopback. README.md says what `docker run -p` and a pod need.

# Both stages are Debian 12: the C library the tests run with is the one the image has.
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-slim-bookworm AS build
WORKDIR /holdoff
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/holdoff/target \
    cargo build --release --locked --bin holdoff \
    && cp target/release/holdoff /usr/local/bin/holdoff

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="holdoff" \
      org.opencontainers.image.description="A local proxy that keeps a node from asking again while its peer says slow down" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
COPY --from=build /usr/local/bin/holdoff /holdoff
COPY --from=build /holdoff/LICENSE-APACHE /holdoff/LICENSE-MIT /licenses/
USER 65532:65532
# proxy, admin (meant to stay on loopback), metrics and probes
EXPOSE 4290 4291 4292
# Asks the admin listener inside the container; reads HOLDOFF_ADMIN like every other command.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/holdoff", "health"]
ENTRYPOINT ["/holdoff"]
CMD ["run"]
