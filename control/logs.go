package control

import (
	"fmt"
	"strings"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
	"example.com/culvert/rules/config"
)

// LogSettings turns the settings of a configuration into those of package logging.
func LogSettings(c *config.Log) logging.Settings {
	s := logging.Settings{Levels: logging.AllAt(c.Level), Repeats: c.Repeats}
	if c.JSON {
		s.Form = logging.JSON
	}
	for name, level := range c.Components {
		if component, err := logging.ParseComponent(name); err == nil { // rules/config knows no others
			s.Levels[component] = level
		}
	}
	return s
}

// Log returns what is logged.
func (g *Gateway) Log() (out api.Log, err error) {
	l := g.opts.Logs
	if l == nil {
		return out, errForeignLog
	}
	out = api.Log{Format: l.Form().String(), Suppressed: l.Suppressed()}
	for c, level := range l.Levels() {
		out.Levels = append(out.Levels, api.LogLevel{Component: logging.Component(c).String(), Level: logging.LevelName(level)})
	}
	return out, nil
}

// LogSuppressed returns how many lines were held back.
func (g *Gateway) LogSuppressed() uint64 {
	if g.opts.Logs == nil {
		return 0
	}
	return g.opts.Logs.Suppressed()
}

// LogLost returns how many lines nobody has read in time.
func (g *Gateway) LogLost() uint64 {
	if g.opts.Logs == nil {
		return 0
	}
	return g.opts.Logs.Lost()
}

// errForeignLog tells that the log is somebody else's.
var errForeignLog = fmt.Errorf("levels of the log are set by the program that runs the gateway: %w", ErrRefused)

// SetLog changes levels until the next reload.
func (g *Gateway) SetLog(change api.LogChange) error {
	l := g.opts.Logs
	if l == nil {
		return errForeignLog
	}
	level, err := logging.ParseLevel(change.Level)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	components := change.Components
	if len(components) == 0 {
		components = logging.Names()
	}
	var set []logging.Component
	for _, name := range components {
		c, err := logging.ParseComponent(name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		set = append(set, c)
	}
	for _, c := range set {
		l.SetLevel(c, level)
	}
	g.log.Info("log level changed", "level", logging.LevelName(level), "components", strings.Join(components, ","))
	return nil
}
