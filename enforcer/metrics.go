package enforcer

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"countersign/enforcer/mask"
)

// metrics holds the enforcer's own registry. Labels come from the policy and
// from fixed words only, never from what a caller or an upstream sent.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	decisions *prometheus.CounterVec
	masked    *prometheus.CounterVec
	exhausted *prometheus.CounterVec
	full      *prometheus.CounterVec
	changed   prometheus.Counter
}

func newMetrics(e *Enforcer) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_requests_total", Help: "Requests by server and how they ended."}, []string{"server", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "countersign_request_seconds", Help: "Time from arrival to the end of the exchange.", Buckets: prometheus.ExponentialBuckets(0.0005, 3, 12)}, []string{"server"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_decisions_total", Help: "Decisions of the policy by server and effect."}, []string{"server", "effect"}),
		masked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_masked_total", Help: "Values masked, by detector."}, []string{"detector"}),
		exhausted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_over_quota_total", Help: "Calls refused by a quota, by its id."}, []string{"quota"}),
		full: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_no_room_total", Help: "Calls refused or answers blocked for want of memory (limits.memory), by what there was no room for."}, []string{"what"}),
		changed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countersign_tools_changed_total", Help: "Tools of locked servers noticed not to be as they were locked."}),
	}
	for _, what := range []string{"requests", "answers"} { // from zero on, so that an alert sees the first
		m.full.WithLabelValues(what)
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	m.registry.MustRegister(m.requests, m.seconds, m.decisions, m.masked, m.exhausted, m.full, m.changed,
		gauge("countersign_policy_age_seconds", "Seconds since a fetch last confirmed the policy's tip.", func() float64 {
			return e.policy.Age(e.Now()).Seconds()
		}),
		gauge("countersign_freezes", "Freezes that stand.", func() float64 { return float64(len(e.Freezes.List())) }),
		gauge("countersign_policy_rejected", "1 while the newest policy commit is refused and an older one is in force.", func() float64 {
			if e.policy.Rejected() != "" {
				return 1
			}
			return 0
		}),
		gauge("countersign_held_request_bytes", "Bytes of requests that are held; at most half of limits.memory.", func() float64 {
			return float64(e.room.requests.Used())
		}),
		gauge("countersign_held_answer_bytes", "Bytes of answers that are held; at most half of limits.memory.", func() float64 {
			return float64(e.room.answers.Used())
		}),
		gauge("countersign_quota_counts_lost", "1 while the day's counts of the quotas are lost, and count as used up.", func() float64 {
			if e.Quotas.Lost(e.Now()) {
				return 1
			}
			return 0
		}),
	)
	return m
}

// Registry lets the command add the metrics of other parts.
func (e *Enforcer) Registry() prometheus.Registerer { return e.metrics.registry }

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// label is the server's name if the policy knows it: an unknown one is the
// caller's text.
func label(x *exchange) string {
	if x.server == every {
		return every
	}
	if x.force != nil {
		if _, ok := x.force.upstreams[x.server]; ok {
			return x.server
		}
	}
	return "unknown"
}

func (m *metrics) decided(x *exchange) {
	m.decisions.WithLabelValues(label(x), string(x.decision.Effect)).Inc()
}

func (m *metrics) ended(x *exchange, status string) {
	m.requests.WithLabelValues(label(x), status).Inc()
	m.seconds.WithLabelValues(label(x)).Observe(x.e.Now().Sub(x.start).Seconds())
}

func (m *metrics) maskedHits(r mask.Report) {
	for _, h := range r.Hits {
		m.masked.WithLabelValues(h.Detector).Add(float64(h.Count))
	}
}
