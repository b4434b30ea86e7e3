# The course in a container, with the set-up that everyone has.
#
#     docker build --tag ray-course .
#     docker run --rm -it --shm-size=4g -p 127.0.0.1:8888:8888 -v ray-course-work:/course/work ray-course
#
# Open the address with the token that it prints. Ray keeps its objects in /dev/shm, for which Docker gives 64 MB by
# default. The volume keeps what you write in your copies of the notebooks when the container is gone.
FROM python:3.11-slim AS machine
RUN apt-get update && apt-get install --yes --no-install-recommends make git wget && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home learner

FROM machine
RUN install --directory --owner=learner /course /course/work
# As a node of a cluster: KubeRay calls `ray` in a plain shell, and asks with wget how a node is.
RUN ln -s /course/.venv/bin/ray /usr/local/bin/ray
WORKDIR /course
USER learner
# What the set-up reads comes first, so that a changed notebook does not repeat it.
COPY --chown=learner Makefile pyproject.toml requirements.txt README.md LICENSE ./
COPY --chown=learner tools tools
COPY --chown=learner helpers helpers
RUN make .venv/.ready && rm -rf .uv-cache
COPY --chown=learner . .
EXPOSE 8888
# All addresses of the container; `-p 127.0.0.1:...` above lets nobody in from outside, and the token stays on.
CMD ["make", "lab", "LAB_ARGS=--ip=0.0.0.0 --no-browser"]
