# One image for the launcher and for what sits beside a stage in its pod.
#
#   docker build -t distill-ledger .
#
# It runs as any user, by default 1000, needs no writable root and no capability; what it writes goes to /tmp and
# /workspace. BASE is any Debian or other glibc system with python3 >= 3.11 and its venv module; a deployment pins it
# by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# A bundle of certificates, where pip's index is behind an authority of one's own.
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# What we stand on changes seldom and is a layer of its own; the versions are those of constraints.txt.
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv /opt/build \
 && python3 -m venv --without-pip /opt/distill-ledger \
 && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print(*p["project"]["dependencies"], sep="\n")' > needed.txt \
 && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print(*p["build-system"]["requires"], sep="\n")' > builders.txt \
 && /opt/build/bin/pip install --quiet --constraint constraints.txt --requirement builders.txt \
 && /opt/build/bin/pip --python /opt/distill-ledger/bin/python install --quiet --only-binary :all: \
        --constraint constraints.txt --requirement needed.txt
COPY . .
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheels \
 && /opt/build/bin/pip --python /opt/distill-ledger/bin/python install --quiet --no-deps --no-index /wheels/*.whl

FROM ${BASE}
COPY --from=build /opt/distill-ledger /opt/distill-ledger
ENV PATH=/opt/distill-ledger/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
WORKDIR /workspace
USER 1000:1000
ENTRYPOINT ["launcher"]
CMD ["--help"]
