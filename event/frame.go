package event

// kind is the JSON type of a value; kindAbsent means that there is no value.
type kind uint8

const (
	kindAbsent kind = iota
	kindNull
	kindBool
	kindNumber
	kindString
	kindObject
	kindArray
)

// String returns the type's name in JSON Schema's terms, and "" when there is no value.
func (k kind) String() string {
	switch k {
	case kindNull:
		return "null"
	case kindBool:
		return "boolean"
	case kindNumber:
		return "number"
	case kindString:
		return "string"
	case kindObject:
		return "object"
	case kindArray:
		return "array"
	default:
		return ""
	}
}

// value is where a JSON value lies in the data and what it is. A string's span includes its quotes.
type value struct {
	start, end uint32
	shape
}

// shape is what a JSON value is.
type shape struct {
	kind    kind
	escaped bool // a string with at least one escape
	mixed   bool // an object without members of interest that has at least one member which is no string
}

// raw returns the value's bytes as they were sent.
func (v value) raw(data []byte) []byte { return data[v.start:v.end] }

// optional reports whether the value is of kind k, null or absent.
func (v value) optional(k kind) bool {
	return v.kind == k || v.kind == kindNull || v.kind == kindAbsent
}

// text returns the content of a string.
func (v value) text(data []byte) string {
	content := data[v.start+1 : v.end-1]
	if !v.escaped {
		return string(content)
	}
	var stack [64]byte
	return string(appendUnescaped(stack[:0], content))
}

// bytes returns the content of a string without copying it, unless it has escapes.
func (v value) bytes(data []byte) []byte {
	content := data[v.start+1 : v.end-1]
	if v.escaped {
		return appendUnescaped(make([]byte, 0, len(content)), content)
	}
	return content
}

// name is a member of interest; its number is its place in a frame.
type name uint8

const (
	// The members of the known event types: an Event keeps these.
	nameTS name = iota
	nameCoordinatorID
	nameQueueSize
	nameCapacity
	nameLevel
	nameSource
	nameReason
	nameUtilization
	nameProvider
	nameScale

	// The members of an envelope.
	nameID
	nameKey
	nameMeta
	namePayload

	// The members of an envelope's meta, which share its frame.
	nameSchemaID
	nameTrack
	nameHeaders
	nameHash

	nameOther // a member of no interest
)

const (
	payloadNames = nameID    // how many members of the known event types there are
	allNames     = nameOther // how many members of interest there are
)

// String returns the member's name.
func (n name) String() string {
	switch n {
	case nameTS:
		return "ts"
	case nameCoordinatorID:
		return "coordinator_id"
	case nameQueueSize:
		return "queue_size"
	case nameCapacity:
		return "capacity"
	case nameLevel:
		return "level"
	case nameSource:
		return "source"
	case nameReason:
		return "reason"
	case nameUtilization:
		return "utilization"
	case nameProvider:
		return "provider"
	case nameScale:
		return "scale"
	case nameID:
		return "id"
	case nameKey:
		return "key"
	case nameMeta:
		return "meta"
	case namePayload:
		return "payload"
	case nameSchemaID:
		return "schema_id"
	case nameTrack:
		return "track"
	case nameHeaders:
		return "headers"
	case nameHash:
		return "hash"
	default:
		return ""
	}
}

// pointer returns the JSON pointer of the member from the root of its envelope or payload.
func (n name) pointer() string {
	if n >= nameSchemaID {
		return "/meta/" + n.String()
	}
	return "/" + n.String()
}

// frame holds the members of interest of one object. The last of several members of one name wins.
type frame [allNames]value

// fields are the members of interest of a payload: the first part of its frame.
type fields [payloadNames]value

// clearMeta forgets the members of a meta that a later one replaces.
func (f *frame) clearMeta() { clear(f[nameSchemaID:allNames]) }

// lookup returns the name of interest that key spells in an envelope or a payload.
func lookup(key []byte) name {
	switch string(key) {
	case "ts":
		return nameTS
	case "id":
		return nameID
	case "key":
		return nameKey
	case "meta":
		return nameMeta
	case "payload":
		return namePayload
	case "coordinator_id":
		return nameCoordinatorID
	case "queue_size":
		return nameQueueSize
	case "capacity":
		return nameCapacity
	case "level":
		return nameLevel
	case "source":
		return nameSource
	case "reason":
		return nameReason
	case "utilization":
		return nameUtilization
	case "provider":
		return nameProvider
	case "scale":
		return nameScale
	default:
		return nameOther
	}
}

// lookupMeta returns the name of interest that key spells in a meta.
func lookupMeta(key []byte) name {
	switch string(key) {
	case "schema_id":
		return nameSchemaID
	case "track":
		return nameTrack
	case "headers":
		return nameHeaders
	case "hash":
		return nameHash
	default:
		return nameOther
	}
}
