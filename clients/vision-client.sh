#!/usr/bin/env bash
# Asks a vision-server about a picture. Needs bash (3.2 is enough) and curl. clients/README.md tells the rest.
set -u

usage() {
    cat <<'EOF'
usage: vision-client.sh [--text TEXT] [--region X1,Y1,X2,Y2] <prompt> <image>
       vision-client.sh prompts        the prompts the server advises, one a line
       vision-client.sh model          the checkpoint it serves

  <prompt>   CAPTION, OD, OCR ... with or without <>, in any letter case
  <image>    a picture file, whatever its name; always the argument after the prompt
  --text     the text a prompt such as CAPTION_TO_PHRASE_GROUNDING asks for
  --region   the box in pixels a prompt such as REGION_TO_CATEGORY asks for

environment
  VISION_HOST      where the server is (http://127.0.0.1:54880; http:// may be left out)
  VISION_API_KEY   the key, where the server asks for one

exit status
  0 answered             65 the server refused the request    66 the picture cannot be read
  64 wrong usage         69 the server cannot be reached      70 the server failed
  75 try again later     77 the key is missing or wrong
EOF
}

me=vision-client # who speaks

fail() {
    printf '%s: %s\n' "$me" "$2" >&2
    exit "$1"
}

misused() { fail 64 "$1 ($me.sh --help)"; }

# Percent-encodes every byte outside RFC 3986's unreserved set. Runs in a subshell ($(...)), where the C locale makes
# ${text:i:1} a byte; old bash gives bytes past 127 as negative numbers, hence the mask.
encode() {
    local text=$1 i char code
    LC_ALL=C
    for ((i = 0; i < ${#text}; i++)); do
        char=${text:i:1}
        case $char in
            [a-zA-Z0-9._~-]) printf '%s' "$char" ;;
            *)
                printf -v code '%d' "'$char"
                printf '%%%02X' $((code & 255))
                ;;
        esac
    done
}

# A line of a curl configuration file. curl reads \" and \\ in a quoted value.
setting() {
    local value=$2
    value=${value//\\/\\\\}
    printf '%s = "%s"\n' "$1" "${value//\"/\\\"}"
}

# What curl is told by a file descriptor: the process list is no place for a key.
configuration() {
    setting url "$base$1"
    setting header 'Accept: text/plain'
    [ -z "${VISION_API_KEY-}" ] || setting header "Authorization: Bearer $VISION_API_KEY"
    # A proxy leads to other machines, not to this one.
    case ${base#*://} in 127.* | localhost | localhost[:/]* | '[::1]'*) setting noproxy '*' ;; esac
}

# Sets $base, the server's address without a slash at its end.
find_server() {
    command -v curl >/dev/null 2>&1 || fail 69 'curl is needed and was not found'
    base=${VISION_HOST:-http://127.0.0.1:54880}
    case $base in
        [Hh][Tt][Tt][Pp]://* | [Hh][Tt][Tt][Pp][Ss]://*) ;;
        *://*) misused "VISION_HOST must be an http or https address: $base" ;;
        *) base=http://$base ;;
    esac
    while [ "${base%/}" != "$base" ]; do base=${base%/}; done
    case $base${VISION_API_KEY-} in *[[:cntrl:]]*) misused 'VISION_HOST or VISION_API_KEY holds a control character' ;; esac
}

# send PATH [curl flags]: one request. -q: a ~/.curlrc must not change what is sent. $instead may be `exec`.
send() {
    local path=$1
    shift
    ${instead-} curl -q -s -g --proto =http,https --connect-timeout 10 ${1+"$@"} -K <(configuration "$path")
}

# What curl's exit status means.
broken() {
    case $1 in
        6) printf '%s' "cannot reach $base: the name is not known" ;;
        7) printf '%s' "cannot reach $base: nothing answers there; is vision-server running?" ;;
        28) printf '%s' "cannot reach $base: timed out" ;;
        35 | 51 | 58 | 60 | 77) printf '%s' "cannot reach $base: the TLS connection failed" ;;
        52 | 55 | 56 | 18) printf '%s' "$base ended the connection without a whole answer" ;;
        *) printf '%s' "cannot reach $base (curl's code $1)" ;;
    esac
}

# refusal STATUS BODY: what is wrong as one line; a page of HTML comes from something else, JSON from a proxy of ours.
refusal() {
    local said=${2%%$'\n'*}
    case $said in
        '<!'* | '<html'* | '<HTML'*) said='' ;;
        '{"error": "'*) said=${said#*: \"} said=${said%%\"*} ;;
    esac
    case $1 in
        429 | 503 | 504) printf '%s' "${said:-the server cannot answer now (status $1)}" ;;
        4??) printf '%s' "${said:-refused with status $1}" ;;
        5??) printf '%s' "${said:-the server failed with status $1}" ;;
        *) printf '%s' "$base answers with status $1; is it a vision-server?" ;;
    esac
}

# The exit status for an HTTP status.
exit_status() {
    case $1 in
        401 | 403) echo 77 ;;
        429 | 503 | 504) echo 75 ;;
        4??) echo 65 ;;
        *) echo 70 ;;
    esac
}

# ask PATH [curl flags]: prints the answer or fails. A body, if one is sent, comes on stdin, which has no name that curl
# could take apart.
ask() {
    local answer code status
    answer=$(send "$@" -w '\n%{http_code}')
    code=$?
    [ $code -ne 3 ] || misused "VISION_HOST is not an address: $base"
    [ $code -eq 0 ] || fail 69 "$(broken $code)"
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    [ "$status" = 200 ] || fail "$(exit_status "$status")" "$(refusal "$status" "$answer")"
    printf '%s\n' "${answer%$'\n'}"
}

# Another script that reads this one (vision-caption-folder-images.sh) wants what stands above.
[ "${BASH_SOURCE[0]}" = "$0" ] || return 0

query=''
words=0
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --text | --region)
            [ $# -ge 2 ] || misused "$1 needs a value"
            if [ "$1" = --text ]; then query="$query&text_input=$(encode "$2")"; else query="$query&region=$(encode "$2")"; fi
            shift 2
            ;;
        --text=*)
            query="$query&text_input=$(encode "${1#*=}")"
            shift
            ;;
        --region=*)
            query="$query&region=$(encode "${1#*=}")"
            shift
            ;;
        -?*) misused "unknown option $1" ;;
        *)
            # The word after the prompt is the picture, even if it starts with a dash.
            [ $words -eq 0 ] || misused "one prompt and one picture are asked for; '$1' is too much"
            prompt=$1
            words=1
            shift
            if [ $# -gt 0 ]; then
                image=$1
                words=2
                shift
            fi
            ;;
    esac
done

find_server

case $words:${prompt-} in
    0:*) usage >&2 && exit 64 ;;
    1:prompts | 1:model)
        [ -z "$query" ] || misused "$prompt takes no options"
        ask "/$prompt"
        ;;
    1:*) misused "no picture is named after '$prompt'" ;;
    *)
        [ -n "$prompt" ] || misused 'the prompt is empty'
        [ -e "$image" ] || fail 66 "there is no file '$image'"
        [ ! -d "$image" ] || fail 66 "'$image' is a folder"
        [ -r "$image" ] || fail 66 "'$image' cannot be read"
        ask "/process_image?prompt=$(encode "$prompt")$query" \
            -X POST -H 'Content-Type: application/octet-stream' --data-binary @- <"$image"
        ;;
esac
