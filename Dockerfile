# One image for the launcher and for what sits beside a stage in its pod.
#
#   docker build -t distill-ledger .
#
# It runs as any user, by default 1000, needs no writable root and no capability; what it writes goes to /tmp and
# /workspace. BASE is any Debian or other glibc system with python3 >= 3.11 and its venv module; a deployment pins it
# by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
#
# What we stand on is one layer, the same until its lists in pyproject.toml and constraints.txt change; our own code is
# a small one above it. So a node that has one version pulls little for the next, and a change of the code builds in
# seconds.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS lists
WORKDIR /lists
COPY pyproject.toml constraints.txt ./
# Of one age, whenever they were written: a builder takes files for others by their times, too.
RUN python3 -c 'import pathlib, tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
        [pathlib.Path(name).write_text("\n".join(of) + "\n") for name, of in \
            (("needed.txt", p["project"]["dependencies"]), ("builders.txt", p["build-system"]["requires"]))]' \
 && rm pyproject.toml \
 && touch --date @0 . *

FROM ${BASE} AS needed
# A bundle of certificates, where pip's index is behind an authority of one's own.
ARG PIP_CERT
WORKDIR /opt/distill-ledger
COPY --from=lists /lists/ /lists/
RUN export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
 && python3 -m venv /tmp/pip \
 && python3 -m venv --without-pip . \
 && /tmp/pip/bin/pip --python bin/python install --quiet --only-binary :all: \
        --constraint /lists/constraints.txt --requirement /lists/needed.txt \
 && rm -r /tmp/pip

FROM needed AS own
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --quiet --constraint /lists/constraints.txt --requirement /lists/builders.txt
COPY . .
# Below /own, each file at its place: a layer that holds nothing else.
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheels \
 && /opt/build/bin/pip --python /opt/distill-ledger/bin/python install --quiet --no-warn-script-location \
        --no-deps --no-index --root /own /wheels/*.whl

FROM needed
ENV PATH=/opt/distill-ledger/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
WORKDIR /workspace
USER 1000:1000
ENTRYPOINT ["launcher"]
CMD ["--help"]
COPY --from=own /own/ /
