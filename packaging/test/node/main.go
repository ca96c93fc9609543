// Command node is what runs on the node of TestNode beside Kubernetes and the agent: a shell
// for the test, the process that holds a pod's namespaces, and an application.
//
//	node shell ADDRESS
//	node pause
//	node send [FLAGS]
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: node shell ADDRESS | pause | send [FLAGS]")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "shell":
		err = shell(os.Args[2])
	case "pause":
		pause()
	case "send":
		err = send(os.Args[2:])
	default:
		err = fmt.Errorf("no command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

// shell runs what is posted to it. A command that fails is answered with 500.
func shell(address string) error {
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		command, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		cmd := exec.CommandContext(r.Context(), "sh", "-c", string(command))
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			out = fmt.Appendf(out, "\n%v", err)
		}
		w.Write(out)
	}))
}

// pause waits to be stopped. As process 1 of a pod it also waits for children that
// others have left.
func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
