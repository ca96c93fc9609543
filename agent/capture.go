package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// The file of a capture is text, one JSON object a line: a captureHead, a
// capturedPacket for each packet, and a captureEnd. Fields are added, not changed.
type captureHead struct {
	Format  int       `json:"sluice_capture"` // 1
	Version string    `json:"version"`
	Started time.Time `json:"started"`
}

type captureEnd struct {
	Packets int    `json:"packets"`
	Missed  uint64 `json:"missed"` // packets that came too fast
}

const captureFormat = 1

func newCapture() *cobra.Command {
	var f apiFlags
	var most time.Duration
	var limit int64
	c := &cobra.Command{
		Use:   "capture FILE [--for TIME]",
		Short: "Keep the packets that arrive at a running agent, with their times",
		Long: `capture writes packets of datagram and stream sockets as they came to FILE, which
must not exist, until the time is over. FILE is text, one JSON object a line, and
readable by its owner alone: it has whatever programs send. sluice replay sends it
again.`,
		Example: `  sluice capture traffic.json --for 30s
  sluice replay traffic.json --speed 2x`,
		Args: oneFile("capture"),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := f.client()
			if err != nil {
				return err
			}
			file, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("write the capture: %w", err)
			}
			end, err := captureTo(c.Context(), api, file, most, limit<<20)
			if closing := file.Close(); err == nil {
				err = closing
			}
			if err != nil {
				return fmt.Errorf("capture to %s: %w", args[0], err)
			}
			fmt.Fprintf(c.OutOrStdout(), "captured %s packets in %s\n", number(end.Packets), args[0])
			if end.Missed > 0 {
				return fmt.Errorf("%s packets came too fast and are missing in it", number(end.Missed))
			}
			return nil
		},
	}
	addAPIFlags(c, &f)
	c.Flags().DurationVar(&most, "for", 30*time.Second, "stop after this `TIME`")
	c.Flags().Int64Var(&limit, "max", 256, "stop when FILE has this many `MiB`")
	return c
}

func oneFile(command string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s takes one FILE, got %d arguments (see sluice %s --help)", command, len(args), command)
		}
		return nil
	}
}

func captureTo(ctx context.Context, api *client, file io.Writer, most time.Duration, limit int64) (end captureEnd, err error) {
	w := bufio.NewWriterSize(file, 64<<10)
	size := int64(0)
	write := func(v any) error {
		data, err := json.Marshal(v)
		if err == nil {
			_, err = w.Write(append(data, '\n'))
			size += int64(len(data)) + 1
		}
		return err
	}
	if err := write(captureHead{Format: captureFormat, Version: version, Started: time.Now().UTC()}); err != nil {
		return end, err
	}
	err = follow(ctx, api, url.Values{"packets": {"1"}}, most, func(event string, data []byte) (bool, error) {
		switch event {
		case "packet":
			end.Packets++
			return size < limit, write(json.RawMessage(data))
		case "skipped":
			var k tailSkipped
			if err := json.Unmarshal(data, &k); err != nil {
				return false, err
			}
			end.Missed += k.Packets
		}
		return true, nil
	})
	if err == nil {
		err = write(end)
	}
	if flushing := w.Flush(); err == nil {
		err = flushing
	}
	return end, err
}

func newReplay() *cobra.Command {
	var file, addr, speed string
	c := &cobra.Command{
		Use:   "replay FILE [--speed 2x]",
		Short: "Send captured packets again, at the times they came",
		Long: `replay sends the packets of a capture to a datagram socket of an agent: the first
one of the configuration, or --addr. --speed 2x takes half the time, max none at
all. Times inside of lines are sent as they are, so old ones may be refused as late.`,
		Example: `  sluice replay traffic.json
  sluice replay traffic.json --speed 10x --addr 127.0.0.1:8125`,
		Args: oneFile("replay"),
		RunE: func(c *cobra.Command, args []string) error {
			factor, err := parseSpeed(speed)
			if err != nil {
				return err
			}
			if addr == "" {
				if addr, err = firstSocket(file); err != nil {
					return err
				}
			}
			in, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read the capture: %w", err)
			}
			defer in.Close()
			conn, err := dialDatagram(addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			packets, long, bytes, err := replayTo(c.Context(), conn, in, factor)
			if err != nil {
				return fmt.Errorf("replay %s: after %d packets: %w", args[0], packets, err)
			}
			if _, err = fmt.Fprintf(c.OutOrStdout(), "sent %s packets (%s) to %s\n", number(packets), size(bytes), addr); err != nil {
				return err
			}
			if long > 0 {
				return fmt.Errorf("%s packets are longer than a datagram may be and were not sent", number(long))
			}
			return nil
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&addr, "addr", "", "`ADDRESS` to send to (default from the configuration)")
	c.Flags().StringVar(&speed, "speed", "1x", "how many `TIMES` as fast as it was: 0.5x, 2x, or max")
	return c
}

// parseSpeed reads 2x, 0.5 or max, which is 0.
func parseSpeed(text string) (float64, error) {
	if text == "max" {
		return 0, nil
	}
	f, err := strconv.ParseFloat(strings.TrimSuffix(text, "x"), 64)
	if err != nil || !(f >= 0.001 && f <= 1e6) {
		return 0, usagef("--speed %q: write how many times as fast, like 2x or 0.5x, or max", text)
	}
	return f, nil
}

// replayTo sends what a capture has. long are the packets that came in a stream's
// frame and are too long for a datagram, of which UDP takes 65,507 bytes.
func replayTo(ctx context.Context, conn net.Conn, file io.Reader, speed float64) (packets, long int, bytes int64, err error) {
	var first, began time.Time // of the capture's packets, of this replay
	err = eachCaptured(file, func(p *capturedPacket) error {
		if packets+long == 0 {
			first, began = p.At, time.Now()
		}
		if speed > 0 {
			due := began.Add(time.Duration(float64(p.At.Sub(first)) / speed))
			if err := sleep(ctx, time.Until(due)); err != nil {
				return err
			}
		}
		content := p.content()
		_, err := conn.Write(content)
		if errors.Is(err, syscall.EMSGSIZE) {
			long++
			return nil
		}
		if err != nil {
			return sendError(conn.RemoteAddr().String(), err)
		}
		packets++
		bytes += int64(len(content))
		return nil
	})
	if ctx.Err() != nil {
		err = nil // interrupted, which is no failure
	}
	return packets, long, bytes, err
}
