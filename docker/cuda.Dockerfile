# Sluice for NVIDIA GPUs (Hopper and newer; the host needs a driver 580 or newer and NVIDIA's container toolkit). From the root of the repository:
#   docker build -f docker/cuda.Dockerfile -t REGISTRY/sluice:0.1.0-cuda .
# Needs neither a GPU nor a driver. Build with a BASE that is pinned by digest where images must be reproducible.
ARG BASE=debian:12-slim

FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
# The toolkit (wheels, 1.1 GB) is a layer of its own: it changes with its list, not with the sources.
COPY scripts/bootstrap scripts/requirements-cuda.txt scripts/
RUN PIP_NO_CACHE_DIR=1 scripts/bootstrap --cuda
COPY . .
# Of which commit the sources are, for sluice_build_info: the repository itself is not in the context. scripts/make-image says it.
ARG COMMIT=""
RUN cmake --preset cuda -DCMAKE_SKIP_BUILD_RPATH=ON -DSLUICE_COMMIT="${COMMIT:-}" && \
    cmake --build --preset cuda --target sluice && \
    scripts/check-hardening build/cuda/sluice && \
    strip --strip-unneeded -o /usr/local/bin/sluice build/cuda/sluice && \
    install -D -m 644 "$(realpath .cuda/toolkit/lib/libcublasLt.so.13)" /usr/local/cuda/lib64/libcublasLt.so.13

# As docker/cpu.Dockerfile. The CUDA runtime is inside of the binary, and libcuda comes from the host with the device.
FROM ${BASE} AS files
# hadolint ignore=DL3008
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates libboost-json1.81.0 libcurl4 libfmt9 libgrpc++1.51 libhiredis0.14 libprometheus-cpp-core1.0 libprotobuf32 libspdlog1.10 libsqlite3-0 libssl3 libucx0 liburing2 \
        libyaml-cpp0.7 libzip4 libzmq5 zlib1g && \
    rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/log/*.log
COPY --from=build /usr/local/bin/sluice /usr/local/bin/sluice
# Products of large matrices; where it is looked for, see device/cuda/cuda_library.h.
COPY --from=build /usr/local/cuda/lib64/libcublasLt.so.13 /usr/local/cuda/lib64/libcublasLt.so.13
COPY docker/collect-root /usr/local/bin/collect-root
RUN collect-root /image /usr/local/bin/sluice /usr/local/cuda/lib64/libcublasLt.so.13 /usr/bin/sha256sum

FROM scratch
COPY --from=files /image /
COPY LICENSE /usr/share/doc/sluice/LICENSE
# A number, so that runAsNonRoot can be checked. Nothing is written to the root: HOME is a temporary folder, packed weights and models are mounted.
USER 65532:65532
# What the container toolkit is to bring of the driver: computing, and what nvidia-smi needs.
ENV PATH=/usr/local/bin:/usr/bin \
    HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sluice"]
CMD ["--help"]
