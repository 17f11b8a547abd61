package event

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// CheckHash compares the hashes that the entry carries with what they cover, as docs/contract.md §2 defines them: the
// hexadecimal SHA-256 of the payload as compact JSON, which is how Python's json.dumps writes it with
// separators=(",", ":") and ensure_ascii=False. Keys are taken in the order and numbers in the spelling in which they
// were sent. Of a nested entry, the outer hash covers the inner envelope, and the inner one, when there is one, the
// event's payload.
//
// It returns nil when all hashes match or there is none, and a *HashError for the first that does not. A producer
// that hashed a number in another spelling than it then sent yields an error too, which is why hashes are only
// advisory unless a flow says otherwise. Of an event with Err set it returns nil: nothing is known to be covered.
func (e *Event) CheckHash() error {
	if !matches(e.Data, e.outerHash, e.outerPayload) {
		return &HashError{Pointer: nameHash.pointer(), Rule: "does not match the payload"}
	}
	if !matches(e.Data, e.hash, e.body) {
		pointer := nameHash.pointer()
		if e.Dialect == DialectNested {
			pointer = namePayload.pointer() + pointer
		}
		return &HashError{Pointer: pointer, Rule: "does not match the payload"}
	}
	return nil
}

// matches reports whether hash is absent, null or empty, or the hash of payload. The case of its digits does not
// matter.
func matches(data []byte, hash, payload value) bool {
	if hash.kind != kindString {
		return true
	}
	sent := hash.text(data)
	if sent == "" {
		return true
	}
	var actual [hashLength]byte
	return strings.EqualFold(sent, string(appendHash(actual[:0], payload.raw(data))))
}

// hashLength is how many digits a hash has.
const hashLength = 2 * sha256.Size

// appendHash appends the hash of a valid JSON text.
func appendHash(dst, text []byte) []byte {
	var stack [1024]byte
	sum := sha256.Sum256(appendCompact(stack[:0], text))
	return hex.AppendEncode(dst, sum[:])
}

// appendCompact appends a valid JSON text without white space and with strings escaped no more than JSON demands.
func appendCompact(dst, text []byte) []byte {
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case ' ', '\n', '\r', '\t':
			i++
		case '"':
			end, escaped := stringEnd(text, i)
			if escaped {
				content := appendUnescaped(nil, text[i+1:end-1])
				dst = appendQuoted(dst, string(content), false)
			} else {
				dst = append(dst, text[i:end]...)
			}
			i = end
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

// stringEnd returns the position behind the valid string that begins at start, and whether it has escapes.
func stringEnd(text []byte, start int) (end int, escaped bool) {
	for i := start + 1; ; i += 2 {
		i = stringStop(text, i)
		if text[i] == '"' {
			return i + 1, escaped
		}
		escaped = true
	}
}
