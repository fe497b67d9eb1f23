package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// The scripts ask the program itself, so that they never grow old. After
// "kedge kubectl" kubectl's own completion answers.
const (
	bashCompletion = `_kedge() {
  local cur="${COMP_WORDS[COMP_CWORD]}"
  local words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  if [[ "${words[1]:-}" == kubectl ]]; then
    COMPREPLY=($(compgen -W "$(kedge kubectl __completeNoDesc "${words[@]:2}" "$cur" 2>/dev/null | grep -v '^:')" -- "$cur"))
  else
    [[ "$cur" == -* ]] && words+=("$cur")
    COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null | cut -d: -f1)" -- "$cur"))
  fi
}
complete -o default -F _kedge kedge
`
	// A file of this name in fpath is the function's body at its first call.
	zshCompletion = `#compdef kedge
_kedge() {
  local cur=${words[CURRENT]} line
  local -a lines found
  if (( CURRENT > 2 )) && [[ ${words[2]} == kubectl ]]; then
    lines=("${(@f)$(${words[1]} kubectl __complete "${(@)words[3,CURRENT-1]}" "$cur" 2>/dev/null)}")
    for line in "${lines[@]}"; do
      [[ -z $line || $line == :* ]] && continue
      if [[ $line == *$'\t'* ]]; then
        found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
      else
        found+=("${line//:/\\:}")
      fi
    done
  else
    local -a asked=("${(@)words[1,CURRENT-1]}")
    [[ $cur == -* ]] && asked+=("$cur")
    # The program describes commands to a zsh, which it knows by this variable.
    found=("${(@f)$(env 0=zsh "${asked[@]}" --generate-bash-completion 2>/dev/null)}")
    found=("${(@)found:#}")
  fi
  if (( ! $#found )); then
    _files
    return
  fi
  _describe kedge found
}
if [[ ${funcstack[1]} == _kedge ]]; then
  _kedge "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
  compdef _kedge kedge
fi
`
	fishCompletion = `function __kedge_complete
  set -l words (commandline -opc)
  set -l cur (commandline -ct)
  if test (count $words) -gt 1; and test "$words[2]" = kubectl
    kedge kubectl __complete $words[3..] "$cur" 2>/dev/null | string match -v ':*'
  else
    $words (string match -- '-*' "$cur") --generate-bash-completion 2>/dev/null | string replace ':' \t
  end
end
complete -c kedge -f -a '(__kedge_complete)'
`
)

func completionCommand() *cli.Command {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script of a shell",
		UsageText: "kedge completion bash|zsh|fish",
		Description: `kedge install puts them where the shells that are here look for them. By hand:

For the running shell:   source <(kedge completion bash)
For every new bash:      kedge completion bash | sudo tee /etc/bash_completion.d/kedge
For every new zsh:       kedge completion zsh | sudo tee /usr/local/share/zsh/site-functions/_kedge
For every new fish:      kedge completion fish | sudo tee /etc/fish/completions/kedge.fish`,
		BashComplete: func(c *cli.Context) { fmt.Fprintln(c.App.Writer, "bash\nzsh\nfish") },
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			script, ok := scripts[shell]
			if !ok {
				return fmt.Errorf("completion: unknown shell %q: name bash, zsh or fish", shell)
			}
			fmt.Fprint(c.App.Writer, script)
			return nil
		},
	}
}
