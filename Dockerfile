# Two stages: hashes are checked where pip is; the image that runs has no compiler and no cache.
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
# the build backend, pinned in pyproject, stays out of the final image's venv
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY config config
RUN pip wheel --no-cache-dir --no-deps -w /dist . && /venv/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home lesson
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER lesson
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 4000, timeout=2); c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]
# The embedded provider needs no key, so the bind rule lets it listen on every address; a configuration with keys of
# your own needs `access.mode: keys` (or --allow-open, knowingly).
ENTRYPOINT ["lesson-proxy"]
CMD ["serve", "--host", "0.0.0.0"]
