# docker build -t a2tgpo . && docker run --rm -v "$PWD/runs:/data/runs" a2tgpo train hops_cpu
# SIGTERM, which `docker stop` sends, keeps a checkpoint at the end of a batch: give it time (--stop-timeout 120).
FROM python:3.11-slim
WORKDIR /app
COPY constraints constraints
RUN pip install --no-cache-dir --constraint constraints/cpu.txt torch
COPY . .
RUN pip install --no-cache-dir --constraint constraints/cpu.txt '.[trl,peft,dense,server,eval,report]'
WORKDIR /data
ENTRYPOINT ["a2tgpo"]
CMD ["--help"]
