# Kedge in a container, to be run privileged: docs/container.md. `make image` builds
# it without Docker. Its context, build/container, is made by scripts/imageroot.sh
# and holds a root file system for each architecture.
FROM scratch
ARG TARGETARCH
ARG VERSION
COPY ${TARGETARCH}/ /
LABEL org.opencontainers.image.title="Kedge" \
	org.opencontainers.image.description="Kubernetes in one file, in a container" \
	org.opencontainers.image.version="${VERSION}" \
	org.opencontainers.image.licenses="Apache-2.0" \
	org.opencontainers.image.source="https://github.com/kedge-k8s/kedge" \
	org.opencontainers.image.vendor="Kedge"
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
# The layers of the pods' containers can't lie on the layers of this one.
VOLUME ["/var/lib/kedge", "/var/lib/kubelet", "/var/log"]
ENTRYPOINT ["/bin/kedge"]
CMD ["server"]
