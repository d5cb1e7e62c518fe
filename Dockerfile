# Visage with all that it needs; docs/portability.md says how to run it and keep what it makes.
#   docker build -t visage .                             PyTorch for processors, of the version in uv.lock
#   docker build -t visage --build-arg TORCH=cuda .      PyTorch with CUDA, exactly as in uv.lock
FROM ghcr.io/astral-sh/uv:0.9 AS uv

FROM python:3.11-slim-bookworm
ARG TORCH=cpu
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git make \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home visage \
 && install --directory --owner visage /visage /opt/venv
COPY --from=uv /uv /usr/local/bin/uv
USER visage
WORKDIR /visage
# make and uv leave the environment as it is here: from uv.lock, they would bring CUDA into a small image
ENV UV_PROJECT_ENVIRONMENT=/opt/venv VIRTUAL_ENV=/opt/venv UV_NO_SYNC=1 UV_LINK_MODE=copy PATH=/opt/venv/bin:$PATH

# what changes seldom comes first, so that a build after an edit takes seconds
COPY --chown=visage pyproject.toml uv.lock ./
RUN uv venv --quiet --allow-existing /opt/venv \
 && if [ "$TORCH" = cuda ]; then \
      uv sync --locked --no-dev --no-install-project --no-cache --compile-bytecode; \
    else \
      uv export --locked --quiet --no-dev --no-emit-project --no-hashes \
        | grep -vE '^(nvidia-|cuda-|triton==)' > /tmp/requirements.txt \
      && uv pip install --no-cache --compile-bytecode --torch-backend cpu --requirement /tmp/requirements.txt; \
    fi

COPY --chown=visage . .
# DVC wants a git repository, which a downloaded archive is not
RUN uv pip install --no-cache --no-deps --editable . \
 && (git rev-parse --quiet --git-dir >/dev/null || git init --quiet)
VOLUME /visage
CMD ["make", "repro"]
