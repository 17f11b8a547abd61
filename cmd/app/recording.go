package app

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/capture"
)

// recorded is an entry of a recording on its way to a topic.
type recorded struct {
	capture.Entry
	topic string
}

// openRecording reads a recording from a file, or from stdin for "-".
func openRecording(path string, stdin io.Reader) ([]recorded, error) {
	if path == "-" {
		return readRecording("standard input", stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	defer f.Close()
	return readRecording(path, f)
}

func readRecording(name string, r io.Reader) ([]recorded, error) {
	entries, err := capture.Read(name, r)
	if err != nil {
		return nil, err
	}
	list := make([]recorded, len(entries))
	for i, e := range entries {
		list[i].Entry = e
	}
	return list, nil
}

// shiftTimes moves the times of all entries by one amount, so that the newest event
// happens now.
func shiftTimes(list []recorded, now time.Time) error {
	entries := make([]capture.Entry, len(list))
	for i, e := range list {
		entries[i] = e.Entry
	}
	if err := capture.Shift(entries, func(int) time.Time { return now }); err != nil {
		return err
	}
	for i := range list {
		list[i].Entry = entries[i]
	}
	return nil
}

// topicOf finds the topic an entry goes to: the one asked for, else the one its
// recorded stream names, else the only one there is.
func topicOf(e recorded, asked string, topics []string) (string, error) {
	if asked != "" {
		if !slices.Contains(topics, asked) {
			return "", fmt.Errorf("no flow reads %q; the flows read %s", asked, strings.Join(topics, ", "))
		}
		return asked, nil
	}
	for _, topic := range topics {
		if e.Stream == topic || strings.HasSuffix(e.Stream, "."+topic) {
			return topic, nil
		}
	}
	if len(topics) == 1 {
		return topics[0], nil
	}
	return "", fmt.Errorf("line %d: which stream? the flows read %s: name one with --stream", e.Line,
		strings.Join(topics, ", "))
}
