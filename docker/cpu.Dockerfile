# Sluice for CPUs. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t REGISTRY/sluice:0.1.0 .
# Build with a BASE that is pinned by digest where images must be reproducible.
ARG BASE=debian:12-slim

FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY scripts/bootstrap scripts/bootstrap
RUN scripts/bootstrap
COPY . .
# Of which commit the sources are, for sluice_build_info: the repository itself is not in the context. scripts/make-image says it.
ARG COMMIT=""
RUN cmake --preset release -DSLUICE_CUDA=OFF -DSLUICE_REPRODUCIBLE=ON -DSLUICE_COMMIT="${COMMIT:-}" && \
    cmake --build --preset release --target sluice && \
    scripts/check-hardening build/release/sluice && \
    strip --strip-unneeded -o /usr/local/bin/sluice build/release/sluice

# The image's files: the binary, what it is linked with, certificates for pulls, and sha256sum, by which the chart checks weights.
FROM ${BASE} AS files
# hadolint ignore=DL3008
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates libboost-json1.81.0 libcurl4 libfmt9 libgrpc++1.51 libhiredis0.14 libprometheus-cpp-core1.0 libprotobuf32 libspdlog1.10 libsqlite3-0 libssl3 libucx0 liburing2 \
        libyaml-cpp0.7 libzip4 libzmq5 zlib1g && \
    rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/log/*.log
COPY --from=build /usr/local/bin/sluice /usr/local/bin/sluice
COPY docker/collect-root /usr/local/bin/collect-root
RUN collect-root /image /usr/local/bin/sluice /usr/bin/sha256sum

FROM scratch
COPY --from=files /image /
COPY LICENSE /usr/share/doc/sluice/LICENSE
# A number, so that runAsNonRoot can be checked. Nothing is written to the root: HOME is a temporary folder, packed weights and models are mounted.
USER 65532:65532
ENV PATH=/usr/local/bin:/usr/bin \
    HOME=/tmp
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sluice"]
CMD ["--help"]
