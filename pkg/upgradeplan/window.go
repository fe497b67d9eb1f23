package upgradeplan

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is the time in which upgrades may begin.
type Window struct {
	Days      []string `json:"days,omitempty"`      // empty: all
	StartTime string   `json:"startTime,omitempty"` // empty: midnight
	EndTime   string   `json:"endTime,omitempty"`   // empty: midnight; before StartTime: of the next day
	TimeZone  string   `json:"timeZone,omitempty"`  // empty: UTC
}

// dayNames are how each day may be called, from Sunday on.
var dayNames = [][]string{
	{"0", "su", "sun", "sunday"}, {"1", "mo", "mon", "monday"}, {"2", "tu", "tue", "tuesday"}, {"3", "we", "wed", "wednesday"},
	{"4", "th", "thu", "thursday"}, {"5", "fr", "fri", "friday"}, {"6", "sa", "sat", "saturday"},
}

const day = 24 * time.Hour

// contains says whether a time is in the window.
func (w *Window) contains(t time.Time) (bool, error) {
	zone, err := time.LoadLocation(w.TimeZone)
	if err != nil {
		return false, fmt.Errorf("timeZone: %w", err)
	}
	start, err := clock(w.StartTime, 0)
	if err != nil {
		return false, fmt.Errorf("startTime: %w", err)
	}
	end, err := clock(w.EndTime, day)
	if err != nil {
		return false, fmt.Errorf("endTime: %w", err)
	}
	days := map[time.Weekday]bool{}
	for _, name := range w.Days {
		i := slices.IndexFunc(dayNames, func(names []string) bool { return slices.Contains(names, strings.ToLower(name)) })
		if i < 0 {
			return false, fmt.Errorf("days: %q is no day", name)
		}
		days[time.Weekday(i)] = true
	}
	on := func(d time.Weekday) bool { return len(days) == 0 || days[d] }
	t = t.In(zone)
	hour, minute, second := t.Clock()
	now := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	if start <= end {
		return on(t.Weekday()) && start <= now && now < end, nil
	}
	return on(t.Weekday()) && start <= now || on(t.AddDate(0, 0, -1).Weekday()) && now < end, nil
}

// clock reads a time of day, as what has gone of it.
func clock(text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	for _, layout := range []string{"15:04", "15:04:05", "3:04pm", "3:04PM", "3pm", "3PM", "15"} {
		if t, err := time.Parse(layout, text); err == nil {
			return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second, nil
		}
	}
	return 0, fmt.Errorf("%q is no time such as 22:30", text)
}
