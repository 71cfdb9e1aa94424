package control

import (
	"slices"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
)

// followAnnouncements logs what helpers open ports for, with the bytes that made them,
// until the engine is closed.
func (g *Gateway) followAnnouncements() {
	log := logging.For(g.log, logging.Helper)
	for a := range g.engine.Announcements() {
		if a.Err != nil {
			log.Warn("helper: a payload announced what it may not", "helper", a.Helper, "flow", a.Flow, "from", a.From,
				"to", texts(a.To), "reason", a.Err, "payload", string(a.Payload))
			continue
		}
		log.Info("helper: a flow is expected", "helper", a.Helper, "flow", a.Flow, "from", a.From,
			"to", texts(a.To), "told", a.Seen, "payload", string(a.Payload))
	}
}

// Helpers returns what each helper did.
func (g *Gateway) Helpers() []api.Helper {
	out := []api.Helper{}
	if g.current.Load().generation == 0 {
		return out
	}
	for _, c := range g.engine.HelperStats().Each {
		h := api.Helper{Name: c.Name, Unread: c.Unread, Announced: c.Announced, Refused: c.Refused}
		if r := c.Last; r != nil {
			client := r.Client.String()
			if r.Client.Is6() {
				client += "/64"
			}
			h.Last = &api.RefusedAnnouncement{At: r.At, Client: client, Reason: r.Err.Error()}
		}
		out = append(out, h)
	}
	return out
}

// troubled returns those of all that could not read a message, or were refused.
func troubled(all []api.Helper) []api.Helper {
	return slices.DeleteFunc(all, func(h api.Helper) bool { return h.Unread == 0 && h.Refused == 0 })
}
