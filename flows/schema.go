package flows

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// keyTests is the key of the flow tests.
const keyTests = "tests"

// Reference declares every key of a flow file, for those who generate documentation or a schema from it. The entries of
// a [KindMap] are declared by its Fields; a stage's own keys are declared by the stage's package.
func Reference() Fields {
	return new(File).fields(&tree{})
}

// fields declares the file. The tree is what reads variables in the names of providers and flows.
func (f *File) fields(t *tree) Fields {
	var fs Fields
	fs = Fields{
		Int("version", &f.Version, "the version of the language: 1", Required(), Example("1"), Check(f.checkVersion)),
		Bool("enabled", &f.Enabled, "whether to consume at all; when false the process runs and reads nothing",
			Default("true")),
		Duration("shutdown_timeout", &f.ShutdownTimeout,
			"the time that events in flight get to finish when the process is told to stop",
			Default("8s"), Above("0s")),
		Object("bus", f.Bus.fields(), "how events travel: the bus default, which flows are on that name no other"),
		newField(Field{
			Name: "buses", Doc: "further buses, by the name that flows give in from.bus and to.bus; default is that of bus",
			Kind: KindMap, Fields: new(Bus).namedFields(),
			value: &entries[Bus]{
				dst: &f.Buses, what: "bus", tree: t, check: checkBusName,
				fields: (*Bus).namedFields, name: func(b *Bus) *string { return &b.Name },
				finish: func(b *Bus, n *Node, c decoding, _ Fields) { b.finish(f, n, c) },
			},
		}, nil),
		Object("admin", f.Admin.fields(), "the HTTP listener: metrics, health, ingest and operation"),
		Object("registry", f.Registry.fields(),
			"the settings of a schema registry; this version reads them and uses none"),
		Object("rates", f.Rates.fields(),
			"where the levels that providers are at outlive the process, and who shares them"),
		newField(Field{
			Name: "providers", Doc: "what has its rate limited, by name", Kind: KindMap,
			Fields: new(Provider).fields(),
			value: &entries[Provider]{
				dst: &f.Providers, what: "provider", tree: t, check: checkProviderName,
				fields: (*Provider).fields, name: func(p *Provider) *string { return &p.Name },
				finish: (*Provider).finish,
			},
		}, nil),
		newField(Field{
			Name: "flows", Doc: "what flows: each flow reads one stream and passes its events through stages",
			Kind: KindMap, Required: true, Fields: new(Flow).fields(),
			value: &entries[Flow]{
				dst: &f.Flows, what: "flow", tree: t, check: checkLowerName,
				fields: (*Flow).fields, name: func(w *Flow) *string { return &w.Name },
				finish: func(w *Flow, n *Node, c decoding, own Fields) {
					w.finish(f, n, c, own, len(f.Buses) > 0 || !fs.faulty("buses"))
				},
			},
		}, nil),
		Any(keyTests, &f.Tests, "flow tests, which pulseflow test runs and run ignores; variables are not replaced in them"),
	}
	return fs
}

func (f *File) checkVersion() error {
	if f.Version != 1 {
		return errors.New("must be 1, the only version that this build reads")
	}
	return nil
}

func (b *Bus) fields() Fields {
	return Fields{
		Enum("backend", &b.Backend, []string{"inmem", "redis"},
			"inmem keeps events in this process and loses them with it; redis keeps them in Redis streams",
			Default("inmem")),
		String("namespace", &b.Namespace, "what {ns} stands for in a stream's key",
			Default("mdp"), Check(func() error { return checkName(b.Namespace) })),
		Int("lanes", &b.Lanes,
			"the number of events a flow handles at once; events of one key share a lane, and so keep their order; "+
				"0 is 16 for each CPU, and at least 128",
			Default("0"), Min(0), Max(4096)),
		Int("capacity", &b.Capacity,
			"inmem: the number of events held before publishing has to wait", Default("10000"), Min(1), Max(10_000_000)),
		Size("max_event_size", &b.MaxEventSize, "the size above which an event goes to the dead letters unread",
			Default("1MiB"), Min("1KiB"), Max("512MiB")),
		Int("dead_letter_buffer", &b.DeadLetterBuffer,
			"inmem: the number of dead letters kept; the oldest make room", Default("10000"), Min(1), Max(10_000_000)),
		Object("redis", b.Redis.fields(), "how to reach Redis and read its streams; used by the redis backend"),
	}
}

// namedFields are those of a bus of buses.
func (b *Bus) namedFields() Fields {
	fs := b.fields()
	for i := range fs {
		switch f := &fs[i]; f.Name {
		case "backend":
			f.Required, f.HasDefault, f.Default, f.Example = true, false, "", "redis"
		case "namespace":
			f.HasDefault, f.Default, f.Example = false, "", "prod"
			f.Doc += "; absent means bus.namespace"
		}
	}
	return fs
}

// finish fills in what depends on the default bus.
func (b *Bus) finish(f *File, n *Node, c decoding) {
	b.Pos = c.at
	b.Redis.finish(n.Get("redis"), c)
	if b.Namespace == "" {
		b.Namespace = f.Bus.Namespace
	}
}

func checkBusName(name string) error {
	if name == DefaultBus {
		return errors.New("must not be default, which is the bus of the key bus")
	}
	return checkLowerName(name)
}

func (r *Redis) fields() Fields {
	return Fields{
		URL("url", &r.URL, []string{"redis", "rediss", "unix"}, "where Redis is; rediss is Redis over TLS",
			Default("redis://localhost:6379/0"), Secret(), Check(r.checkURL)),
		String("stream_key", &r.StreamKey, "how a topic becomes a stream's key, from {ns} and {topic}",
			Default("{ns}:{ns}.{topic}"), Check(r.checkStreamKey)),
		String("consumer", &r.Consumer,
			"this process's name in its consumer groups; empty derives one from the host and a free slot", Default("")),
		Int("batch", &r.Batch, "the number of entries asked for in one read", Default("500"), Min(1), Max(100_000)),
		Int("max_in_flight", &r.MaxInFlight,
			"the number of entries read and not yet acknowledged at which reading pauses",
			Default("4096"), Min(1), Max(1_000_000)),
		Duration("ack_every", &r.AckEvery, "the longest time that an acknowledgement waits for others to go with it",
			Default("5ms"), Above("0s")),
		Int("ack_batch", &r.AckBatch, "the number of acknowledgements that are sent without waiting for more",
			Default("500"), Min(1), Max(100_000)),
		Duration("block", &r.Block, "how long one read waits for entries", Default("2s"), Min("1ms")),
		Duration("lease", &r.Lease,
			"how long a consumer's name stays taken after its process was last heard of", Default("5s"), Min("100ms")),
		Duration("max_idle", &r.MaxIdle,
			"how long an entry stays with another program's consumer that does not acknowledge it before it is taken over; one of a dead process is taken over when its lease has ended",
			Default("30s"), Min("100ms")),
		Int("max_deliveries", &r.MaxDeliveries,
			"the number of deliveries after which an entry goes to the dead letters", Default("5"), Min(1)),
		Int64("max_len", &r.MaxLen, "the approximate length at which a published stream is trimmed; 0 never trims",
			Default("0"), Min(0)),
		Int64("dead_letter_max_len", &r.DeadLetterMaxLen,
			"the approximate length at which a dead-letter stream is trimmed; 0 never trims",
			Default("1000000"), Min(0)),
		Enum("trim", &r.Trim, []string{"none", "acked"},
			"acked removes the entries of a stream that is read once every group has acknowledged them",
			Default("none")),
		Object("tls", r.TLS.fields(), "the files for a rediss connection"),
	}
}

func (r *Redis) finish(n *Node, c decoding) {
	r.Pos = c.at
	if n != nil {
		r.Pos = n.pos
	}
}

func (r *Redis) checkURL() error {
	u, err := url.Parse(r.URL)
	if err != nil || r.URL == "" {
		return errors.New("must be a URL that starts with redis://, rediss:// or unix://")
	}
	database := strings.Trim(u.Path, "/")
	if u.Scheme == "unix" {
		if u.Path == "" {
			return Beyond(LimitURL, errors.New("must name a socket, as in unix:///run/redis.sock"))
		}
		database = u.Query().Get("db")
	}
	if _, err := strconv.ParseUint(database, 10, 31); err != nil && database != "" {
		return Beyond(LimitURL, errors.New("must end in the number of a database, as in redis://localhost:6379/0"))
	}
	return nil
}

var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

func (r *Redis) checkStreamKey() error {
	for _, p := range placeholder.FindAllString(r.StreamKey, -1) {
		if p != "{ns}" && p != "{topic}" {
			return errors.New("must hold no other placeholders than {ns} and {topic}")
		}
	}
	if !strings.Contains(r.StreamKey, "{topic}") {
		return errors.New("must hold {topic}, or all streams would be one")
	}
	return nil
}

func (t *TLS) fields() Fields {
	return Fields{
		String("ca", &t.CA, "the file of certificates to trust; empty trusts the system's", Default("")),
		String("cert", &t.Cert, "the file of the client's certificate; empty sends none", Default(""),
			Check(t.checkPair, "key")),
		String("key", &t.Key, "the file of the client's private key; empty sends none", Default("")),
		String("server_name", &t.ServerName, "the name that the server's certificate must have; empty means the host",
			Default("")),
	}
}

func (t *TLS) checkPair() error {
	if (t.Cert == "") != (t.Key == "") {
		return errors.New("must be given together with key, or not at all")
	}
	return nil
}

func (a *Admin) fields() Fields {
	return Fields{
		String("listen", &a.Listen, "the address to listen on, host:port; empty or off listens nowhere",
			Default("127.0.0.1:8088"), Check(a.checkListen)),
		String("publisher_token", &a.PublisherToken,
			"the token that posting an event, acquiring from a provider and reporting to it require; empty, or the word unset, requires none", Default(""), Secret()),
		String("operator_token", &a.OperatorToken,
			"the token that changing anything else requires; empty, or the word unset, requires none but for overruling a provider's rate, which nobody may then", Default(""), Secret()),
		Bool("allow_public_ingest", &a.AllowPublicIngest,
			"whether events may be posted without a token on an address other than loopback", Default("false")),
		Duration("read_timeout", &a.ReadTimeout, "the longest time that reading a request may take",
			Default("10s"), Above("0s")),
	}
}

func (a *Admin) checkListen() error {
	if a.Listen == "" || a.Listen == "off" {
		return nil
	}
	_, port, err := net.SplitHostPort(a.Listen)
	if err != nil {
		return errors.New("must be host:port, such as 127.0.0.1:8088 or :8088, or off")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("must have a port from 0 to 65535")
	}
	return nil
}

// finish gives the words that mean nothing their meaning.
func (a *Admin) finish(n *Node, c decoding) {
	a.Pos = c.at
	if n != nil {
		a.Pos = n.pos
	}
	if a.Listen == "off" {
		a.Listen = ""
	}
	for _, token := range []*string{&a.PublisherToken, &a.OperatorToken} {
		if *token == "unset" {
			*token = ""
		}
	}
	if a.OperatorToken != "" && a.OperatorToken == a.PublisherToken && a.OperatorToken != hidden {
		c.beyondf(n.Get("operator_token").Pos(), LimitNeighbour,
			"operator_token: must differ from publisher_token: whoever publishes could change what only operators may")
	}
}

func (r *Registry) fields() Fields {
	tracks := []string{"v1", "v2"}
	return Fields{
		Bool("enabled", &r.Enabled, "whether to ask a registry for schemas", Default("false")),
		URL("url", &r.URL, []string{"http", "https"}, "the registry's base address", Default("")),
		String("token", &r.Token, "the bearer token; empty sends none", Default(""), Secret()),
		Duration("cache_ttl", &r.CacheTTL, "how long a schema is kept; 0s keeps none", Default("5m")),
		Duration("timeout", &r.Timeout, "the longest time that one request may take", Default("30s"), Above("0s")),
		Enum("prefer_track", &r.PreferTrack, tracks, "the track that is asked for first", Default("v2")),
		Enum("fallback_track", &r.FallbackTrack, tracks,
			"the track that is used when the preferred one has no schema or a deprecated one", Default("v1")),
		Enum("enforcement", &r.Enforcement, []string{"warn", "strict"},
			"what happens to an event that breaks its schema: warn counts it, strict makes it a dead letter",
			Default("warn")),
	}
}

func (r *Rates) fields() Fields {
	return Fields{
		Bool("share", &r.Share,
			"redis: whether the levels are kept in Redis, where every process of the namespace follows them; without it "+
				"each process knows only the events that it has handled itself",
			Default("true")),
		Duration("restore_timeout", &r.RestoreTimeout,
			"redis: how long providers grant nothing at the start while the shared levels cannot be read; then they go on "+
				"as if none was under pressure, until the levels can be read",
			Default("5s")),
		String("file", &r.File,
			"the file that keeps the levels where they are not shared, as on inmem; relative to this file; empty keeps none",
			Default(""), Example("rates.json")),
	}
}

func (p *Provider) fields() Fields {
	return Fields{
		Float("rate", &p.Rate, "the full rate, in tokens a second", Required(), Above(0), Max(1e9), Example("60")),
		Float("burst", &p.Burst,
			"the most tokens that can be saved up; absent means as many as rate brings in a second, but at least 1",
			Min(1), Max(1e9), Example("60")),
		Float("min_rate", &p.MinRate,
			"the floor of a reduced rate, in tokens a second; 0 allows a full pause; absent means 1, or rate when that "+
				"is lower",
			Min(0), Example("1"), Check(p.checkFloor, "rate")),
		Duration("ramp_up", &p.RampUp,
			"how long a raised rate takes to grow to its new value, in a straight line; 0 raises it at once, and it is "+
				"always lowered at once",
			Default("0s"), Example("30s"), Check(p.checkRampUp)),
		Object("breaker", p.Breaker.fields(), "the circuit breaker: after too many failures calls are refused for a while"),
		Duration("cooldown", &p.Cooldown, "the length of a cooldown that is triggered without one; 0 is 10m", Default("0s")),
		newField(Field{
			Name: "aggregate", Kind: KindString, Allowed: []string{aggregateWorst, aggregateLast},
			Doc: "which of its coordinators' levels is the provider's: the worst, or that of the newest event",
			value: &scalar[bool]{
				dst: &p.AggregateLast, format: formatAggregate,
				parse: func(text string) (bool, error) { return text == aggregateLast, nil },
			},
		}, []Option{Default(aggregateWorst)}),
		Object("on_silence", p.OnSilence.fields(), "when a level that is not repeated is released; absent holds it"),
		Int("max_coordinators", &p.MaxCoordinators,
			"the number of coordinators whose levels are held; beyond it an ok goes first, then a soft, and of equal levels "+
				"the oldest; 0 is 10000",
			Default("0"), Min(0), Max(10_000_000)),
		Duration("max_future_skew", &p.MaxFutureSkew,
			"how far in the future an event's time may lie; an event beyond it goes to the dead letters; 0 is 30s",
			Default("0s")),
	}
}

// The values of aggregate.
const (
	aggregateWorst = "worst"
	aggregateLast  = "last"
)

func formatAggregate(last bool) string {
	if last {
		return aggregateLast
	}
	return aggregateWorst
}

func (b *Breaker) fields() Fields {
	return Fields{
		Int("threshold", &b.Threshold,
			"the number of failures in a row that open it; 0 is no breaker, and 5 is what the reference has",
			Default("0"), Min(0), Max(1_000_000), Example("5")),
		Duration("open_for", &b.OpenFor, "how long it stays open; 0 is 1m", Default("0s"),
			Check(func() error { return b.idle(b.OpenFor > 0) }, "threshold")),
		Int("half_open", &b.HalfOpen,
			"the number of calls that are then let through; the first to succeed closes it, the first to fail opens it "+
				"again; 0 is 1",
			Default("0"), Min(0), Max(1_000_000),
			Check(func() error { return b.idle(b.HalfOpen > 0) }, "threshold")),
	}
}

// idle refuses a setting of a breaker that is none.
func (b *Breaker) idle(given bool) error {
	if given && b.Threshold == 0 {
		return errors.New("has no effect without threshold: give that too, or remove this")
	}
	return nil
}

func (s *Silence) fields() Fields {
	return Fields{
		Duration("after", &s.After,
			"how long after the time of its last event a coordinator's level is released; 0 holds it until the next event",
			Default("0s"), Example("60s")),
		Bool("step", &s.Step,
			"whether to release one level (hard, soft, ok) for each time that after passes, rather than all at once",
			Default("false"), Check(s.checkStep, "after")),
	}
}

func (s *Silence) checkStep() error {
	if s.Step && s.After == 0 {
		return errors.New("has no effect without after: give that too, or remove this")
	}
	return nil
}

// minRampUp is the shortest ramp that the rate coordinator can climb.
const minRampUp = 100 * time.Millisecond

func (p *Provider) checkRampUp() error {
	if p.RampUp > 0 && p.RampUp < minRampUp {
		return fmt.Errorf("must be 0s or at least %s", formatDuration(minRampUp))
	}
	return nil
}

func (p *Provider) checkFloor() error {
	if p.MinRate > p.Rate {
		return fmt.Errorf("must be at most rate (%s)", formatFloat(p.Rate))
	}
	return nil
}

// finish fills in the defaults that depend on the rate.
func (p *Provider) finish(n *Node, c decoding, _ Fields) {
	p.Pos = c.at
	if n.Get("burst") == nil {
		p.Burst = max(p.Rate, 1)
	}
	if n.Get("min_rate") == nil {
		p.MinRate = min(p.Rate, 1)
	}
}

func (w *Flow) fields() Fields {
	return Fields{
		Bool("enabled", &w.Enabled, "whether this flow runs; a flow that does not run is checked all the same",
			Default("true")),
		Object("from", w.From.fields(), "the stream that is read", Required()),
		newField(Field{
			Name: "stages", Doc: "what each event passes, in order; a stage is its name, or its name and its keys",
			Kind: KindStages, Required: true, Example: "[dedupe]", value: stageList{dst: &w.Stages},
		}, nil),
		Object("to", w.To.fields(), "the stream that events are published to, as the stages have left them, when they have passed "+
			"all of them; absent publishes nothing"),
		Object("retry", w.Retry.fields(), "how often and when a failed event is tried again"),
		Object("dead_letter", w.DeadLetter.fields(), "where events go that cannot be handled"),
		Int("lanes", &w.Lanes, "the number of events handled at once; absent means the lanes of the bus", Min(0), Max(4096)),
	}
}

func (s *Source) fields() Fields {
	return Fields{
		String("bus", &s.Bus, "the bus that the stream is on: a name of buses, or default for that of bus; dead letters, and "+
			"what stages publish, stay on it",
			Default(DefaultBus)),
		String("stream", &s.Stream, "the topic, without namespace", Required(), Example("telemetry.feedback"),
			Check(func() error { return checkName(s.Stream) })),
		String("key", &s.Key, "the full key of the stream, instead of the one made by the bus's redis.stream_key",
			Example("prod:prod.telemetry.feedback"), Check(func() error { return checkKey(s.Key) })),
		String("group", &s.Group, "the consumer group; flows that share one share the events", Default("pipeline"),
			Check(func() error { return checkName(s.Group) })),
		Enum("start", &s.Start, []string{"oldest", "newest"},
			"where a new group starts: with the oldest entry of the stream, or with those yet to come",
			Default("oldest")),
	}
}

func (t *Target) fields() Fields {
	return Fields{
		String("bus", &t.Bus, "the bus that the stream is on: a name of buses, or default for that of bus; absent means the bus "+
			"that the flow reads from", Example("shared"), Check(t.checkBus, "stream")),
		String("stream", &t.Stream, "the topic, without namespace; empty publishes nothing", Default(""), Example("market.mid"),
			Check(t.checkStream)),
		String("key", &t.Key, "the full key of the stream, instead of the one made by the bus's redis.stream_key", Default(""),
			Example("prod:prod.market.mid"), Check(func() error { return t.checkKey() }, "stream")),
		Enum("format", &t.Format, []string{FormatCanonical, FormatSame},
			"canonical publishes an envelope of its own; same publishes the bytes that were received, where no stage has "+
				"changed the event",
			Default(FormatCanonical)),
	}
}

func (t *Target) checkStream() error {
	if t.Stream == "" {
		return nil
	}
	return checkName(t.Stream)
}

func (t *Target) checkBus() error {
	if t.Bus != "" && t.Stream == "" {
		return errors.New("needs stream: without one nothing is published")
	}
	return nil
}

func (t *Target) checkKey() error {
	if t.Key == "" {
		return nil
	}
	if t.Stream == "" {
		return errors.New("needs stream: the topic names the stream in metrics")
	}
	return checkKey(t.Key)
}

func (r *Retry) fields() Fields {
	return Fields{
		Int("max", &r.Max, "the number of further attempts; 0 makes the first failure final",
			Default("3"), Min(0), Max(1000)),
		Duration("initial", &r.Initial, "the wait before the first further attempt", Default("100ms"), Above("0s")),
		Duration("max_interval", &r.MaxInterval, "the longest wait", Default("5s"), Above("0s"),
			Check(r.checkInterval, "initial")),
		Float("multiplier", &r.Multiplier, "what each wait is multiplied by to give the next", Default("2"), Min(1),
			Max(100)),
		Float("jitter", &r.Jitter, "the share of a wait by which it varies at random, so that retries spread out",
			Default("0.2"), Min(0), Max(1)),
	}
}

func (r *Retry) checkInterval() error {
	if r.MaxInterval < r.Initial {
		return fmt.Errorf("must be at least initial (%s)", formatDuration(r.Initial))
	}
	return nil
}

func (l *DeadLetter) fields() Fields {
	return Fields{
		String("stream", &l.Stream, "the topic, without namespace; absent means that of the source with .dlq added",
			Example("telemetry.feedback.dlq"), Check(func() error { return checkName(l.Stream) })),
		String("key", &l.Key,
			"the full key of the stream; absent means the key of stream, or that of the source with .dlq added when "+
				"stream is absent too",
			Example("prod:prod.telemetry.feedback.dlq"), Check(func() error { return checkKey(l.Key) })),
	}
}

var (
	lowerName    = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)
	providerName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	streamName   = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,256}$`)
	streamKey    = regexp.MustCompile(`^[^\s\pC]{1,512}$`)
)

// checkLowerName accepts the names of flows and buses: they become values of labels.
func checkLowerName(name string) error {
	if !lowerName.MatchString(name) {
		return errors.New("must be made of a-z, 0-9, hyphen and underscore, at most 64")
	}
	return nil
}

// checkProviderName accepts capitals and dots too, since the names are other programs' to choose.
func checkProviderName(name string) error {
	if !providerName.MatchString(name) {
		return errors.New("must be made of letters, digits, dot, hyphen and underscore, at most 64")
	}
	return nil
}

// checkName accepts the names of topics, groups and namespaces: they become parts of keys and values of labels.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("must not be empty")
	case !streamName.MatchString(name):
		return errors.New("must be made of letters, digits, dot, colon, hyphen and underscore, at most 256")
	}
	return nil
}

// CheckStream reports why a text cannot be the name of a topic, nil when it can.
func CheckStream(name string) error { return checkName(name) }

// CheckKey reports why a text cannot be the full key of a stream, nil when it can.
func CheckKey(key string) error { return checkKey(key) }

// checkKey accepts braces, since a Redis cluster places keys by what is between them.
func checkKey(key string) error {
	if !streamKey.MatchString(key) {
		return errors.New("must be a key without spaces, at most 512 characters")
	}
	return nil
}
