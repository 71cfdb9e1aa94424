package control

// followAnnouncements logs what helpers open ports for, with the bytes that made them,
// until the engine is closed.
func (g *Gateway) followAnnouncements() {
	for a := range g.engine.Announcements() {
		if a.Err != nil {
			g.log.Warn("helper: a payload announced what it may not", "helper", a.Helper, "flow", a.Flow, "from", a.From,
				"to", texts(a.To), "reason", a.Err, "payload", string(a.Payload))
			continue
		}
		g.log.Info("helper: a flow is expected", "helper", a.Helper, "flow", a.Flow, "from", a.From,
			"to", texts(a.To), "told", a.Seen, "payload", string(a.Payload))
	}
}
