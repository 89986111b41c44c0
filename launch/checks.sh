# shellcheck shell=bash
# What the scripts here make sure of before an option becomes part of a command or of a job's file.
# Sourced by them.

# Where an option would change the lines around it, ends with 2.
# usage: check --OPTION VALUE PATTERN WHAT
check() {
  local LC_ALL=C
  [[ $2 =~ ^($3)$ ]] && return
  printf 'error: %s must be %s, got %q\n' "$1" "$4" "$2" >&2
  exit 2
}

# Of a job or machine: it stands in host names.
check_name() {
  check "$1" "$2" '[A-Za-z0-9][A-Za-z0-9_.-]{0,99}' 'letters, digits, "-", "_" and "."'
}

# Of what a site or a cloud calls its parts.
check_word() {
  check "$1" "$2" '[A-Za-z0-9][A-Za-z0-9_.,:/@+-]{0,254}' 'one word, without spaces or quotes'
}

check_number() {
  check "$1" "$2" '[0-9]{1,9}' 'a whole number'
}

# Arguments of the training: what a shell has quoted stays as it is, but for line ends.
check_arguments() {
  local argument
  for argument in "$@"; do
    [[ $argument != *[$'\n\r']* ]] ||
      { printf 'error: an argument has a line end: %q\n' "$argument" >&2; exit 2; }
  done
}
