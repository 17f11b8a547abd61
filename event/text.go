package event

import (
	"unicode/utf16"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// unhex returns the value of the hexadecimal digit c, -1 when it is none.
func unhex(c byte) rune {
	switch {
	case c-'0' <= 9:
		return rune(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return rune(c|0x20-'a') + 10
	default:
		return -1
	}
}

// unhex4 returns the code unit that an escape \uXXXX at the start of text spells, -1 when there is no such escape.
func unhex4(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	var unit rune
	for _, c := range text[2:6] {
		digit := unhex(c)
		if digit < 0 {
			return -1
		}
		unit = unit<<4 | digit
	}
	return unit
}

// appendUnescaped appends what the content of a valid JSON string spells. A surrogate without its other half becomes
// U+FFFD, as in encoding/json.
func appendUnescaped(dst, content []byte) []byte {
	for i := 0; i < len(content); {
		c := content[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		if content[i+1] != 'u' {
			dst = append(dst, unescape(content[i+1]))
			i += 2
			continue
		}
		unit := unhex4(content[i:])
		i += 6
		if utf16.IsSurrogate(unit) {
			pair := utf16.DecodeRune(unit, unhex4(content[i:]))
			if pair != utf8.RuneError {
				i += 6
			}
			unit = pair
		}
		dst = utf8.AppendRune(dst, unit)
	}
	return dst
}

// unescape returns the character that a backslash and c spell.
func unescape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}

// appendQuoted appends text as a JSON string in the spelling of Python's json.dumps: with ascii, everything outside
// printable ASCII is escaped, as dumps does by default; without, only what JSON demands is (ensure_ascii=False).
func appendQuoted(dst []byte, text string, ascii bool) []byte {
	dst = append(dst, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20:
			dst = appendControl(dst, r)
		case r < 0x7f || !ascii:
			dst = utf8.AppendRune(dst, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			dst = appendEscape(appendEscape(dst, high), low)
		default:
			dst = appendEscape(dst, r)
		}
	}
	return append(dst, '"')
}

// appendControl appends a control character, by its short escape when it has one.
func appendControl(dst []byte, r rune) []byte {
	switch r {
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	default:
		return appendEscape(dst, r)
	}
}

// appendEscape appends the code unit as \uXXXX.
func appendEscape(dst []byte, unit rune) []byte {
	return append(dst, '\\', 'u',
		hexDigits[unit>>12&0xf], hexDigits[unit>>8&0xf], hexDigits[unit>>4&0xf], hexDigits[unit&0xf])
}
