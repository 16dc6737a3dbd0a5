# For CPUs: docker build -t mixer .   For GPUs: docker build --build-arg EXTRA=cuda -t mixer .   For TPUs: EXTRA=tpu.
# Checked by hadolint, and not built by any test. CUDA comes from PyPI; the host needs NVIDIA's driver and container
# toolkit alone.
FROM python:3.13
ARG EXTRA=""
WORKDIR /mixer
COPY . .
RUN pip install --no-cache-dir --editable ".${EXTRA:+[$EXTRA]}" --constraint requirements.lock
CMD ["python", "train.py", "--help"]
