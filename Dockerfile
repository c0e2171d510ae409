# A tagger over HTTP (docs/tagging.md). The tagger and params are mounted, so that one image serves any:
#   docker build -t sightread .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/models/tagger:/model:ro" sightread
# With pictures: mount params.yaml and what it names as well, and add --params /work/params.yaml behind /model.
FROM python:3.11-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    HF_HUB_DISABLE_TELEMETRY=1 SIGHTREAD_STORE=/store
WORKDIR /sightread

# --build-arg TORCH_INDEX=ADDRESS takes torch from another index, such as that of its CPU builds: gigabytes less.
ARG TORCH_INDEX=
COPY install.sh requirements.lock requirements-cuda.lock requirements-serve.lock ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" "$(sed -nE 's/^(torch==[^ ]+).*/\1/p' requirements.lock)"; \
    fi \
    && sh install.sh python \
    && pip install --no-deps -r requirements-serve.lock

COPY pyproject.toml README.md LICENSE ./
COPY ner ner
COPY pipeline pipeline
COPY reporting reporting
COPY sightread sightread
COPY stages stages
RUN pip install --no-deps --no-build-isolation . \
    && useradd --create-home --uid 10001 sightread \
    && install --directory --owner sightread /store

USER sightread
WORKDIR /work
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["sightread", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
