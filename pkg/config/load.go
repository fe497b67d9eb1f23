package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Flags are the options given on the command line: for each name, without
// dashes, its values in their order. Options not given are not in it.
type Flags map[string][]string

// LoadServer builds the configuration of the server role from the
// configuration files, the environment (as os.Environ returns it) and the
// command line. The error is one line that says where the first wrong value
// was given, what is wrong with it and what to do.
//
// An environment variable that is empty counts as unset; one that names no
// option is ignored, as Kubernetes and others may set variables of the same
// prefix.
func LoadServer(flags Flags, environ []string) (*Server, error) {
	return loadServer(flags, environ, DefaultConfigFile, os.Hostname)
}

func loadServer(flags Flags, environ []string, defaultFile string, hostname func() (string, error)) (*Server, error) {
	return serverRole().load(flags, environ, defaultFile, hostname)
}

// LoadAgent builds the configuration of the agent role, as LoadServer does that
// of the server role.
func LoadAgent(flags Flags, environ []string) (*Agent, error) {
	return loadAgent(flags, environ, DefaultConfigFile, os.Hostname)
}

func loadAgent(flags Flags, environ []string, defaultFile string, hostname func() (string, error)) (*Agent, error) {
	s, err := agentRole().load(flags, environ, defaultFile, hostname)
	if err != nil {
		return nil, err
	}
	return &Agent{
		ConfigFile: s.ConfigFile,
		Paths:      s.Paths,
		Logging:    s.Logging,
		Join:       s.Join,
		Node:       s.Node,
		Warnings:   s.Warnings,
	}, nil
}

// role is what a machine is in a cluster.
type role struct {
	command string // that runs it
	options []Option
	others  []Option // options of the other role
	advice  string   // about those
	checks  []func(*loader) error
}

func serverRole() role {
	return role{
		command: "kedge server",
		options: ServerOptions(),
		others:  AgentOptions(),
		advice:  "is an option of agents; remove it",
		checks: []func(*loader) error{
			(*loader).checkRanges, (*loader).checkPodRanges, (*loader).checkDNS, (*loader).checkHostAddrs,
			(*loader).checkPrimaryFamily, (*loader).checkTogether, (*loader).checkIneffective,
			(*loader).checkDatastore, (*loader).checkReset, (*loader).checkSnapshots, (*loader).checkProfile,
		},
	}
}

func agentRole() role {
	return role{
		command: "kedge agent",
		options: AgentOptions(),
		others:  ServerOptions(),
		advice:  "is an option of servers, from which agents take what they need; remove it",
		checks:  []func(*loader) error{(*loader).checkServer, (*loader).checkTogether, (*loader).checkIneffective},
	}
}

// load builds the configuration of a role. Of an agent's, only the parts that
// an Agent has mean something.
func (r role) load(flags Flags, environ []string, defaultFile string, hostname func() (string, error)) (*Server, error) {
	l := loader{role: r, server: &Server{}, settings: map[string]setting{}}
	env := environment(environ)
	if err := l.defaults(); err != nil {
		return nil, err
	}
	if err := l.files(configFile(flags, env, defaultFile)); err != nil {
		return nil, err
	}
	if err := l.environment(env); err != nil {
		return nil, err
	}
	if err := l.flags(flags); err != nil {
		return nil, err
	}
	if err := l.derive(hostname); err != nil {
		return nil, err
	}
	for _, check := range r.checks {
		if err := check(&l); err != nil {
			return nil, err
		}
	}
	if err := l.readTokenFiles(); err != nil {
		return nil, err
	}
	return l.server, nil
}

// origin says where a value was given.
type origin struct {
	where  string // "default", file:line, variable or flag
	prefix string // where, and which option if that does not say it
}

const byDefault = "default"

func (o origin) refuse(err error) error { return fmt.Errorf("%s: %w", o.prefix, err) }

// value is one value of an option, as it was written.
type value struct {
	text string
	origin
}

// setting is what an option is set to.
type setting struct {
	origin // of the option as a whole, where it was last given
	values []value
	rank   int // of two settings the one given later has the higher rank
}

// loader gives options to a Server, source by source, from the weakest to the
// strongest.
type loader struct {
	role
	server   *Server
	settings map[string]setting // by option name
	given    int                // how often an option was given
}

// give sets an option, or with plus appends to it.
func (l *loader) give(o Option, s setting, plus bool) error {
	if o.Kind != List {
		s.values = s.values[len(s.values)-1:] // the last one counts
	}
	if plus {
		s.values = slices.Concat(l.settings[o.Name].values, s.values)
	}
	if err := o.bind(l.server, s.values); err != nil {
		return err
	}
	l.given++
	s.rank = l.given
	l.settings[o.Name] = s
	return nil
}

func (l *loader) option(name string) (Option, bool) { return find(l.options, name) }

func find(options []Option, name string) (Option, bool) {
	i := slices.IndexFunc(options, func(o Option) bool { return o.Name == name })
	if i < 0 {
		return Option{}, false
	}
	return options[i], true
}

// unknown returns the error for a name that is no option's of the role.
func (l *loader) unknown(name string) error {
	if _, ok := find(l.others, name); ok {
		return fmt.Errorf("%s: %s", name, l.advice)
	}
	var names []string
	for _, o := range l.options {
		if slices.Contains(o.Aliases, name) {
			return fmt.Errorf("unknown option %q; did you mean %q?", name, o.Name)
		}
		names = append(names, o.Name)
	}
	return fmt.Errorf("unknown option %q; %s", name,
		didYouMean(strings.TrimLeft(name, "-"), names, l.command+" --help lists the options"))
}

func (l *loader) defaults() error {
	for _, o := range l.options {
		if o.Default == "" {
			continue
		}
		from := origin{byDefault, o.Name + " (default)"}
		if err := l.give(o, plain(o, from, o.Default), false); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) environment(env map[string]string) error {
	for _, o := range l.options {
		text := env[o.EnvVar()]
		if text == "" {
			continue
		}
		from := origin{o.EnvVar(), o.EnvVar()}
		if err := l.give(o, plain(o, from, text), false); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) flags(flags Flags) error {
	var names []string
	for name := range flags {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		o, ok := l.option(name)
		if !ok {
			return l.unknown(name)
		}
		if len(flags[name]) == 0 {
			continue
		}
		from := origin{o.Flag(), o.Flag()}
		if err := l.give(o, plain(o, from, flags[name]...), false); err != nil {
			return err
		}
	}
	return nil
}

// plain returns the setting that texts, all of the same origin, make.
func plain(o Option, from origin, texts ...string) setting {
	s := setting{origin: from}
	for _, text := range texts {
		for _, v := range o.split(text) {
			s.values = append(s.values, value{v, from})
		}
	}
	return s
}

// environment returns the KEDGE_ variables by name. Of several of the same name
// the first counts, as for os.Getenv.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, kv := range environ {
		name, text, _ := strings.Cut(kv, "=")
		if _, seen := env[name]; !seen && strings.HasPrefix(name, "KEDGE_") {
			env[name] = text
		}
	}
	return env
}

// configFile returns the configuration file, and what names it: a flag, a
// variable, or nothing ("").
func configFile(flags Flags, env map[string]string, defaultFile string) (file, namedBy string) {
	if given := flags["config"]; len(given) > 0 {
		return given[len(given)-1], "--config"
	}
	if file := env["KEDGE_CONFIG"]; file != "" {
		return file, "KEDGE_CONFIG"
	}
	return defaultFile, ""
}
