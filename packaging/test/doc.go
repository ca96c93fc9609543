// Package test proves the packages: it installs them on a booted systemd, and runs
// the image, for real. It needs root, Linux and Debian packages (systemd-container,
// mmdebstrap, umoci, skopeo, crun, qemu-user-static), and what packaging/release has made:
//
//	SLUICE_DIST=$PWD/dist go -C packaging/test test -v ./...
//
// A test that finds something missing is skipped and says so. The tag quick leaves out what
// needs Kubernetes' modules, which take minutes to build.
package test
