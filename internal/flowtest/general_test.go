package flowtest

import "testing"

// What route and to publish is seen, also by the flow that reads it, and what waits
// for a token or a delay waits on the test's clock.
func TestEveryPublicationIsSeen(t *testing.T) {
	passes(t, `version: 1
flows:
  first:
    from: {stream: s1}
    stages: [{throttle: {rate: 0.5}}, {delay: {for: 3s}}, {route: {to: {s2: payload.x > 1}}}]
    to: {stream: s3}
  second:
    from: {stream: s2}
    stages: [{map: {set: {y: payload.x * 2}}}]
    to: {stream: s4}
`, `tests:
  - name: chain
    flow: first
    events:
      - {payload: {x: 1}, schema: my.X}
      - {payload: {x: 2}, schema: my.X}
    expect:
      outcomes: {success: 2}
      outputs:
        s2: [{payload: {x: 2}}]
        s3: [{payload: {x: 1}}, {payload: {x: 2}}]
        s4: [{payload: {x: 2, y: 4}}]
      elapsed: 3s
`)
}
