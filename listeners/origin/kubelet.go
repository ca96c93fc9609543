package origin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-faster/jx"
)

const (
	// A node has 110 pods by default and a pod's object some 10 KB; nodes of 500 pods
	// are known. What is kept of a container is about 300 bytes.
	maxAnswer     = 64 << 20
	maxContainers = 10_000
	kubeletWait   = 10 * time.Second
	maxToken      = 64 << 10
)

// askKubelet asks the kubelet for the pods of its node: GET /pods, which answers with
// a PodList (kubernetes.io, "Kubelet authentication/authorization"). Nothing is kept
// of the connection: it is asked for rarely, and token and certificates change.
func askKubelet(ctx context.Context, o *Options) ([]pod, error) {
	ctx, cancel := context.WithTimeout(ctx, kubeletWait)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.Kubelet+"/pods", nil)
	if err != nil {
		return nil, err
	}
	if o.TokenFile != "" {
		token, err := readSmall(o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	roots, err := certificates(o.CAFile)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, InsecureSkipVerify: o.Insecure}} // origin.kubelet_insecure asks for it
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return nil, hint(err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return parsePods(answer.Body, o.Labels)
	case http.StatusUnauthorized:
		return nil, errors.New("401: the kubelet does not know the token (see origin.kubelet_token_file)")
	case http.StatusForbidden:
		return nil, errors.New("403: the service account may not get nodes/pods (before Kubernetes 1.33: nodes/proxy)")
	}
	return nil, fmt.Errorf("answer %s", answer.Status)
}

// hint says what to do about a certificate that cannot be verified: a kubelet signs
// its own unless serverTLSBootstrap is set.
func hint(err error) error {
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) {
		return fmt.Errorf("%w (set origin.kubelet_ca_file, or origin.kubelet_insecure where kubelets sign their own)", err)
	}
	return err
}

// certificates reads those who may have signed, nil for the system's.
func certificates(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readSmall(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in it", file)
	}
	return roots, nil
}

func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const limit = 1 << 20
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("%s is over the limit of %d bytes", file, limit)
	}
	return text, err
}

// parsePods reads a PodList as it comes in; only what is asked for is kept of it.
func parsePods(body io.Reader, labels map[string]string) (pods []pod, err error) {
	limited := &io.LimitedReader{R: body, N: maxAnswer}
	d := jx.Decode(limited, 64<<10)
	left := maxContainers
	items := false
	err = d.ObjBytes(func(d *jx.Decoder, key []byte) error {
		if string(key) != "items" {
			return d.Skip()
		}
		items = true
		if d.Next() == jx.Null {
			return d.Null()
		}
		return d.Arr(func(d *jx.Decoder) error {
			p := pod{}
			if err := p.read(d, labels); err != nil {
				return err
			}
			pods = append(pods, p)
			if left -= 1 + len(p.containers); left < 0 {
				return fmt.Errorf("more than %d containers and pods", maxContainers)
			}
			return nil
		})
	})
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("the answer is over the limit of %d bytes", maxAnswer)
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case !items:
		return nil, errors.New("the answer is no list of pods")
	}
	return pods, nil
}

func (p *pod) read(d *jx.Decoder, labels map[string]string) error {
	hash := ""
	err := object(d, func(d *jx.Decoder, key string) error {
		switch key {
		case "metadata":
			return object(d, func(d *jx.Decoder, key string) error {
				switch key {
				case "uid":
					return text(d, &p.uid)
				case "name":
					return text(d, &p.name)
				case "namespace":
					return text(d, &p.namespace)
				case "labels":
					return p.readLabels(d, labels, &hash)
				case "ownerReferences":
					return array(d, p.readOwner)
				}
				return d.Skip()
			})
		case "status":
			return object(d, func(d *jx.Decoder, key string) error {
				switch key {
				case "containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses":
					return array(d, p.readContainer)
				}
				return d.Skip()
			})
		}
		return d.Skip()
	})
	// A Deployment's pods belong to a ReplicaSet that is named after it and the hash.
	if name, ok := strings.CutSuffix(p.workload, "-"+hash); ok && hash != "" {
		p.workload = name
	}
	return err
}

func (p *pod) readLabels(d *jx.Decoder, wanted map[string]string, hash *string) error {
	return object(d, func(d *jx.Decoder, key string) error {
		if key == "pod-template-hash" {
			return text(d, hash)
		}
		if _, ok := wanted[key]; !ok {
			return d.Skip()
		}
		if p.labels == nil {
			p.labels = map[string]string{}
		}
		value := ""
		err := text(d, &value)
		p.labels[key] = value
		return err
	})
}

func (p *pod) readOwner(d *jx.Decoder) error {
	name, controls := "", false
	err := object(d, func(d *jx.Decoder, key string) (err error) {
		switch key {
		case "name":
			return text(d, &name)
		case "controller":
			controls, err = d.Bool()
			return err
		}
		return d.Skip()
	})
	if controls {
		p.workload = name
	}
	return err
}

func (p *pod) readContainer(d *jx.Decoder) error {
	c := container{}
	err := object(d, func(d *jx.Decoder, key string) error {
		switch key {
		case "name":
			return text(d, &c.name)
		case "image":
			return text(d, &c.image)
		case "containerID": // containerd://<id>
			err := text(d, &c.id)
			_, c.id, _ = strings.Cut(c.id, "://")
			return err
		}
		return d.Skip()
	})
	p.containers = append(p.containers, c)
	return err
}

// object reads an object or null.
func object(d *jx.Decoder, f func(d *jx.Decoder, key string) error) error {
	if d.Next() == jx.Null {
		return d.Null()
	}
	return d.Obj(f)
}

// array reads an array or null.
func array(d *jx.Decoder, f func(d *jx.Decoder) error) error {
	if d.Next() == jx.Null {
		return d.Null()
	}
	return d.Arr(f)
}

// text reads a text that becomes the value of a tag, or null. Longer than that it is
// cut when the tag is set.
func text(d *jx.Decoder, to *string) error {
	if d.Next() == jx.Null {
		return d.Null()
	}
	s, err := d.Str()
	if len(s) > 1024 { // no name, uid or label is as long
		s = strings.ToValidUTF8(s[:1024], "")
	}
	*to = strings.Clone(s)
	return err
}
