package event

// view reads the payload members of a decoded event by the rules of its type and keeps the first rule that is broken.
type view struct {
	event *Event
	err   *FieldError
}

// fail keeps the error for the member n unless there is one already.
func (v *view) fail(n name, rule string) {
	if v.err != nil {
		return
	}
	k := v.event.fields[n].kind
	if k == kindAbsent {
		rule = "is required"
	}
	v.err = &FieldError{Pointer: n.pointer(), Rule: rule, Got: k.String()}
}

// text reads a string.
func (v *view) text(n name) string {
	w := v.event.fields[n]
	if w.kind != kindString {
		v.fail(n, "must be a string")
		return ""
	}
	content := w.bytes(v.event.Data)
	if string(content) == v.event.Key { // usually the same thing, so that its memory can be shared
		return v.event.Key
	}
	return string(content)
}

// source reads the member source, which may be missing.
func (v *view) source() string {
	w := v.event.fields[nameSource]
	if w.kind == kindAbsent || w.kind == kindString && string(w.bytes(v.event.Data)) == defaultSource {
		return defaultSource
	}
	return v.text(nameSource)
}

// integer reads an integer that is at least minimum, which is 0 or 1.
func (v *view) integer(n name, minimum int64) int64 {
	w := v.event.fields[n]
	if w.kind != kindNumber {
		v.fail(n, "must be an integer")
		return 0
	}
	d := parseDecimal(w.raw(v.event.Data))
	if !d.integral() {
		v.fail(n, "must be an integer")
		return 0
	}
	x := d.integer()
	if x < minimum {
		rule := "must not be negative"
		if minimum == 1 {
			rule = "must be greater than 0"
		}
		v.fail(n, rule)
		return 0
	}
	return x
}

// fraction reads a number from 0 to 1.
func (v *view) fraction(n name) float64 {
	w := v.event.fields[n]
	if w.kind != kindNumber {
		v.fail(n, "must be a number")
		return 0
	}
	d := parseDecimal(w.raw(v.event.Data))
	if d.sign() < 0 || !d.atMostOne() {
		v.fail(n, "must be from 0 to 1")
		return 0
	}
	if d.sign() == 0 {
		return 0 // not -0
	}
	x, _ := finite(w.raw(v.event.Data))
	return x
}

// level reads the name of a level.
func (v *view) level(n name) Level {
	w := v.event.fields[n]
	if w.kind == kindString {
		if level, ok := ParseLevel(string(w.bytes(v.event.Data))); ok {
			return level
		}
	}
	v.fail(n, "must be ok, soft or hard")
	return LevelOK
}

// time reads the event's time.
func (v *view) time() float64 {
	seconds, ok := v.event.EventTime()
	if !ok {
		v.fail(nameTS, "must be a finite number")
	}
	return seconds
}
