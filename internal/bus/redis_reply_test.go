package bus

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

// replies are replies to XREADGROUP and what is to be read from them.
var replies = map[string]struct {
	raw  string
	want string // entries, as collectEntries spells them
	err  string
}{
	"none":           {raw: "*-1\r\n"},
	"none, protocol": {raw: "*0\r\n"},
	"one": {
		raw:  "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$4\r\ndata\r\n$2\r\n{}\r\n",
		want: `1-0 data={}; `,
	},
	"two, binary": {
		raw: "*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$4\r\ndata\r\n$4\r\n\r\n$1\r\n" +
			"*2\r\n$3\r\n2-0\r\n*4\r\n$0\r\n\r\n$1\r\nx\r\n$4\r\ndata\r\n$0\r\n\r\n",
		want: "1-0 data=\r\n$1; 2-0 =x data=; ",
	},
	"deleted":        {raw: "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*-1\r\n", want: "1-0; "},
	"empty":          {raw: "", err: "line"},
	"cut":            {raw: "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-", err: "length"},
	"cut at the end": {raw: "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nd\r\n$2\r\n{}", err: "string"},
	"odd fields":     {raw: "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*1\r\n$1\r\nd\r\n", err: "fields"},
	"null string":    {raw: "*1\r\n*2\r\n$-1\r\n*0\r\n", err: "string"},
	"a map":          {raw: "%1\r\n$1\r\ns\r\n*0\r\n", err: "type"},
	"not a number":   {raw: "*x\r\n", err: "length"},
	"huge":           {raw: "*1\r\n*2\r\n$999999999999999999\r\n", err: "length"},
	"three":          {raw: "*1\r\n*3\r\n$1\r\ns\r\n*0\r\n*0\r\n", err: "stream"},
}

func collectEntries(raw []byte) (string, error) {
	var text strings.Builder
	err := readEntries(raw, func(e *replyEntry) {
		fmt.Fprintf(&text, "%s", e.id)
		for i := 0; i < len(e.pairs); i += 2 {
			fmt.Fprintf(&text, " %s=%s", e.pairs[i], e.pairs[i+1])
		}
		text.WriteString("; ")
	})
	return text.String(), err
}

func TestReadEntries(t *testing.T) {
	t.Parallel()
	for name, test := range replies {
		t.Run(name, func(t *testing.T) {
			got, err := collectEntries([]byte(test.raw))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), "malformed reply: "+test.err) {
					t.Errorf("read %q, %v; want an error with %q", got, err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzReadEntries(f *testing.F) {
	for _, test := range replies {
		f.Add([]byte(test.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, err := collectEntries(raw); len(got) > 8*len(raw)+8 {
			t.Errorf("%d bytes read as %d, %v", len(raw), len(got), err)
		}
	})
}

func TestReplyBufferRefusesErrors(t *testing.T) {
	t.Parallel()
	var b replyBuffer
	_, err := b.Write([]byte("-NOGROUP No such key"))
	if !redis.HasErrorPrefix(err, "NOGROUP") || !isNoGroup(fmt.Errorf("wrapped: %w", err)) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Write([]byte("-READONLY You can't write")); !redis.IsReadOnlyError(err) {
		t.Errorf("go-redis does not see that the server is read-only: %v", err)
	}
	for _, part := range []string{"$2", "\r\n", "-x"} {
		if _, err := b.Write([]byte(part)); err != nil {
			t.Error(err)
		}
	}
	if b.String() != "$2\r\n-x" {
		t.Errorf("got %q", b.String())
	}
	if errors.Is(err, redis.Nil) {
		t.Error("an error is redis.Nil")
	}
}
