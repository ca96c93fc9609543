// Command controlplane is what of Kubernetes takes objects: etcd, kube-apiserver and kubectl
// in one program, which its first argument or the name it is called by chooses. .ci/apiserver
// builds it, from Go modules alone, and tries what is shipped for Kubernetes on it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if name := filepath.Base(os.Args[0]); name == "controlplane" && len(os.Args) > 1 {
		os.Args = os.Args[1:]
	}
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kubectl":
		cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand())
	default:
		fmt.Fprintf(os.Stderr, "controlplane: no part %q: etcd, kube-apiserver, kubectl\n", name)
		os.Exit(2)
	}
}
