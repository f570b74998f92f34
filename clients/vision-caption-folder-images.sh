#!/usr/bin/env bash
# Captions the pictures of a folder into text files beside them. Needs bash (3.2 is enough), curl, and vision-client.sh
# in the same folder. clients/README.md tells the rest.
set -u

here=${BASH_SOURCE[0]}
[ ! -L "$here" ] || here=$(cd "$(dirname "$here")" && cd "$(dirname "$(readlink "$here")")" && pwd)/x
base='' # is set by it
# shellcheck source=/dev/null
. "$(dirname "$here")/vision-client.sh" || exit 69
me=vision-caption-folder-images

usage() {
    cat <<'EOT'
usage: vision-caption-folder-images.sh [options] <prompt> <extension> <folder>

  <prompt>      CAPTION, GENERATE_TAGS ... with or without <>, in any letter case
  <extension>   of the text files that are written beside the pictures: txt turns cat.jpg into cat.txt
  <folder>      where the pictures are, in it or anywhere below

options, before or after those
  --overwrite   caption pictures again that have such a file; without it they are skipped
  --parallel N  requests at a time (4), so that the server can answer several together
  --wait S      seconds to keep asking while the server is full, loading or away (600)
  --text TEXT, --region X1,Y1,X2,Y2   what some prompts ask for
  --            only names follow

environment
  VISION_HOST      where the server is (http://127.0.0.1:54880; http:// may be left out)
  VISION_API_KEY   the key, where the server asks for one

exit status
  0 every picture has its file    1 some have not, and each was named
  64 wrong usage         65 the server refused the request    66 the folder cannot be read
  69 the server cannot be reached      70 the server failed
  75 it could not answer for too long  77 the key is missing or wrong
  129, 130, 143 interrupted; run it again to go on
EOT
}

# Arguments ------------------------------------------------------------------------------------------------------------

overwrite='' parallel=4 patience_s=600 query='' region='' names_only='' count=0
words=()
while [ $# -gt 0 ]; do
    word=$1
    shift
    if [ -n "$names_only" ]; then
        words[count++]=$word
        continue
    fi
    case $word in
        --parallel | --wait | --text | --region)
            [ $# -ge 1 ] || misused "$word needs a value"
            value=$1
            shift
            ;;
        --parallel=* | --wait=* | --text=* | --region=*) value=${word#*=} ;;
    esac
    case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --) names_only=yes ;;
        --overwrite) overwrite=yes ;;
        --parallel | --parallel=*) parallel=$value ;;
        --wait | --wait=*) patience_s=$value ;;
        --text | --text=*) query="$query&text_input=$(encode "$value")" ;;
        --region | --region=*) region=yes query="$query&region=$(encode "$value")" ;;
        -?*) misused "unknown option $word" ;;
        *) words[count++]=$word ;;
    esac
done
if [ $count -eq 0 ]; then
    usage >&2
    exit 64
fi
[ $count -eq 3 ] || misused "a prompt, an extension and a folder are asked for, and $count words are there"
case $parallel in '' | *[!0-9]* | ????*) parallel=0 ;; esac
parallel=$((10#$parallel))
if [ $parallel -lt 1 ] || [ $parallel -gt 256 ]; then misused '--parallel takes a number from 1 to 256'; fi
case $patience_s in '' | *[!0-9]* | ???????*) misused "--wait takes a number of seconds" ;; esac
patience_s=$((10#$patience_s))

prompt=${words[0]} extension=${words[1]#.} folder=${words[2]}
[ -n "$prompt" ] || misused 'the prompt is empty'
kinds='jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic heif'
case $extension in '' | */* | *[[:cntrl:]]*) misused "'$extension' is no extension: give one like txt" ;; esac
case " $kinds " in
    *" $(printf '%s' "${extension##*.}" | tr '[:upper:]' '[:lower:]') "*)
        misused "'$extension' is what pictures are called: name the extension of the text files, like txt"
        ;;
esac
[ -e "$folder" ] || fail 66 "there is no folder '$folder'"
[ -d "$folder" ] || fail 66 "'$folder' is no folder"
if [ ! -r "$folder" ] || [ ! -x "$folder" ]; then fail 66 "'$folder' cannot be read"; fi
while [[ $folder == *//* ]]; do folder=${folder//\/\//\/}; done
[ "$folder" = / ] || folder=${folder%/}
case $folder in -*) folder=./$folder ;; esac
find_server

export LC_ALL=C # names are bytes
scratch=$(mktemp -d "${TMPDIR:-/tmp}/vision-caption.XXXXXX") || fail 66 'there is no place for temporary files'
trap 'rm -rf "$scratch"' EXIT
interrupted=''
trap 'interrupted=130' INT
trap 'interrupted=143' TERM
trap 'interrupted=129' HUP

# The server: is it one, and does it know the prompt? --------------------------------------------------------------

answer=$(ask '/prompts?all=1') || exit $?
[ -z "$interrupted" ] || exit "$interrupted"
bare=${prompt#<}
bare=$(printf '%s' "${bare%>}" | tr '[:lower:]' '[:upper:]')
known=$(printf '%s' "$answer" | tr '[:lower:]' '[:upper:]')
case $'\n'$known$'\n' in *$'\n<CAPTION>\n'*) ;; *) fail 70 "what answers at $base is no vision-server" ;; esac
case $'\n'$known$'\n' in
    *$'\n'"<$bare>"$'\n'* | *$'\n'"$bare"$'\n'*) ;;
    *) fail 65 "the server knows no prompt '$prompt'; it takes ${answer//$'\n'/ }" ;;
esac

# What there is to do --------------------------------------------------------------------------------------------------

shown() { printf '%s' "${1//[[:cntrl:]]/?}"; }

to_terminal=''
[ ! -t 2 ] || to_terminal=yes

clear_line() { [ -z "$to_terminal" ] || printf '\r%78s\r' '' >&2; }

failed=0
# fault PICTURE REASON: one picture has failed.
fault() {
    failed=$((failed + 1))
    clear_line
    printf '%s: %s: %s\n' "$me" "$(shown "$1")" "$2" >&2
}

wanted=()
for kind in $kinds; do wanted=(${wanted[@]+"${wanted[@]}"} -o -iname "*.$kind"); done
find -H "$folder" \( -type f -o -type l \) \( "${wanted[@]:1}" \) ! -name '._*' -print0 \
    >"$scratch/found" 2>"$scratch/unread"
unread=$(grep -c . "$scratch/unread")
[ "$unread" -eq 0 ] || printf '%s: %s\n' "$me" "$(shown "$(head -n 1 "$scratch/unread")")" >&2

# Pictures that share a stem must follow each other, whatever else their names hold: no path holds two slashes in a row.
while IFS= read -r -d '' path; do
    name=${path##*/}
    printf '%s//%s\0' "${path%/*}/${name%.*}" "${name##*.}"
done <"$scratch/found" >"$scratch/stems"

# Where the file system takes a.txt and A.txt for one file, so do the claims.
fold=''
IFS= read -r -d '' path <"$scratch/found"
if [ -n "${path-}" ]; then
    stem=${path%.*} other=$(printf '%s' "${path##*.}" | tr '[:upper:][:lower:]' '[:lower:][:upper:]')
    [ ! "$path" -ef "$stem.$other" ] || fold=-f
fi
sort -z $fold "$scratch/stems" >"$scratch/sorted" || fail 70 'this sort cannot part names by zero bytes (-z)'

pictures=() sidecars=() total=0 skipped=0 claimed='' claimer=''
[ -z "$fold" ] || shopt -s nocasematch
while IFS= read -r -d '' record; do
    stem=${record%//*}
    picture=$stem.${record##*//}
    [ -f "$picture" ] || [ -L "$picture" ] || continue
    if [[ $stem == "$claimed" ]]; then
        fault "$picture" "$(shown "$claimer") already claims $(shown "${stem##*/}.$extension")"
        continue
    fi
    claimed=$stem claimer=${picture##*/}
    if [ -d "$stem.$extension" ]; then
        fault "$picture" "$(shown "${stem##*/}.$extension") is a folder"
    elif [ -z "$overwrite" ] && { [ -e "$stem.$extension" ] || [ -L "$stem.$extension" ]; }; then
        skipped=$((skipped + 1))
    else
        pictures[total]=$picture sidecars[total]=$stem.$extension total=$((total + 1))
    fi
done <"$scratch/sorted"
shopt -u nocasematch
all=$((total + skipped + failed))

# One picture ----------------------------------------------------------------------------------------------------------

# Runs in the background, so that a signal ends the wait and not only what comes after it.
child=''
during() {
    "$@" &
    child=$!
    wait "$child"
}

# send_picture PICTURE: the status goes into $scratch/N.status, headers and body beside it.
send_picture() {
    # shellcheck disable=SC2034 # it is read by `send`: a signal to this job shall reach curl
    instead='exec'
    send "/process_image?prompt=$(encode "$prompt")$query" -X POST -H 'Content-Type: application/octet-stream' \
        --data-binary @- -D "$files.head" -o "$files.body" -w '%{http_code}' <"$1" >"$files.status"
}

# caption SLOT INDEX, as a job of its own: asks until there is an answer, writes the sidecar whole or not at all, and
# tells the parent in one line: `SLOT done`, `SLOT failed`, or `SLOT CODE` for what ends the whole run.
caption() {
    local picture=${pictures[$2]} sidecar=${sidecars[$2]} files=$scratch/$1
    local part=${sidecars[$2]%/*}/.vision-$$-$1.part
    trap 'kill "$child" 2>/dev/null; rm -f "$part"; exit 1' TERM
    trap '' INT HUP
    rm -f "$files".*
    local outcome=failed
    if [ ! -e "$picture" ]; then
        echo 'there is no such file any more' >"$files.reason"
    elif [ ! -r "$picture" ]; then
        echo 'it cannot be read' >"$files.reason"
    elif [ ! -s "$picture" ]; then # the server would take it for a request without a picture
        echo 'it is empty' >"$files.reason"
    else
        persist
    fi
    if [ "$outcome" = answered ]; then
        outcome='done'
        { printf '%s\n' "$(tr -d '\0' <"$files.body")" >"$part" && mv -f "$part" "$sidecar"; } 2>/dev/null || {
            rm -f "$part"
            outcome=failed
            printf '%s cannot be written\n' "$(shown "${sidecar##*/}")" >"$files.reason"
        }
    fi
    printf '%s %s\n' "$1" "$outcome" >&3
}

# Sets $outcome to `answered`, `failed` or an exit status; the reason goes into $files.reason.
persist() {
    local code status body since='' pause_s=1 after_s breaks=0
    while :; do
        : >"$files.head"
        : >"$files.body"
        during send_picture "$picture"
        code=$?
        status=$(cat "$files.status" 2>/dev/null)
        case $code:$status in
            0:200)
                outcome=answered
                return
                ;;
            0:* | *:[45]??) # an early refusal may break the upload off
                body=$(head -n 1 "$files.body" 2>/dev/null | tr -d '\0')
                refusal "$status" "$body" >"$files.reason"
                case $status in
                    429 | 502 | 503 | 504) outcome=75 ;;
                    400 | 401 | 403 | 404) # nothing about the picture
                        outcome=$(exit_status "$status")
                        return
                        ;;
                    4?? | 500) return ;;
                    *)
                        outcome=70
                        return
                        ;;
                esac
                ;;
            *)
                broken $code >"$files.reason"
                # A connection that breaks again and again while others are made: it is this picture.
                case $code in
                    5 | 6 | 7 | 28 | 35) ;;
                    18 | 52 | 55 | 56)
                        breaks=$((breaks + 1))
                        [ $breaks -lt 4 ] || return
                        ;;
                    *) return ;;
                esac
                outcome=69
                ;;
        esac
        [ -n "$since" ] || since=$SECONDS
        [ $((SECONDS - since)) -lt "$patience_s" ] || return
        after_s=$(sed -n 's/^[Rr][Ee][Tt][Rr][Yy]-[Aa][Ff][Tt][Ee][Rr]:[[:space:]]*\([0-9]\{1,6\}\)[[:space:]]*$/\1/p' \
            "$files.head" | tail -n 1)
        after_s=$((10#${after_s:-$pause_s}))
        [ $pause_s -ge 30 ] || pause_s=$((pause_s * 2))
        [ $after_s -le $((patience_s - SECONDS + since)) ] || after_s=$((patience_s - SECONDS + since))
        [ $after_s -ge 1 ] || after_s=1
        outcome=failed
        during sleep $after_s
    done
}

# All of them ----------------------------------------------------------------------------------------------------------

span() {
    if [ "$1" -ge 3600 ]; then
        printf '%d h %02d min' $(($1 / 3600)) $(($1 % 3600 / 60))
    elif [ "$1" -ge 60 ]; then
        printf '%d min %02d s' $(($1 / 60)) $(($1 % 60))
    else
        printf '%d s' "$1"
    fi
}

captioned=0 ended=0 began_s=$SECONDS told_s=$SECONDS
# Count and time left: on a terminal one line that is kept up to date, elsewhere a line every ten seconds.
progress() {
    local left='' line
    [ $ended -eq 0 ] || left=", $(span $(((SECONDS - began_s) * (total - ended) / ended))) left"
    line="$ended of $total$left"
    [ $failed -eq 0 ] || line="$line, $failed failed"
    if [ -n "$to_terminal" ]; then
        printf '\r%-78s' "$line" >&2
    elif [ $((SECONDS - told_s)) -ge 10 ]; then
        told_s=$SECONDS
        printf '%s: %s\n' "$me" "$line" >&2
    fi
}

# settle SLOT OUTCOME: a job has ended.
settle() {
    local picture=${pictures[${index[$1]}]} reason
    reason=$(cat "$scratch/$1.reason" 2>/dev/null)
    pid[$1]='' running=$((running - 1)) ended=$((ended + 1))
    case $2 in
        'done') captioned=$((captioned + 1)) ;;
        failed) fault "$picture" "${reason:-its job was ended}" ;;
        65) # a region may be out of this picture and in others
            if [ $captioned -eq 0 ] && [ -z "$region" ]; then stop=65 stopped=$reason; else fault "$picture" "$reason"; fi
            ;;
        *) stop=$2 stopped=$reason ;;
    esac
    [ -z "$stop" ] || ended=$((ended - 1))
}

mkfifo "$scratch/news" || fail 70 'a pipe cannot be made'
exec 3<>"$scratch/news"
# A wake-up each second: `read -t` would do, but may take half a line when its time ends.
while kill -0 $$ && sleep 1 && echo 'tick -' >&3; do :; done >/dev/null 2>&1 &
ticker=$!
next=0 running=0 stop='' stopped='' slot=0
pid=() index=() suspect=()
while [ -z "$stop$interrupted" ] && { [ $next -lt $total ] || [ $running -gt 0 ]; }; do
    for ((slot = 0; slot < parallel && next < total; slot++)); do
        [ -z "${pid[slot]-}" ] || continue
        caption $slot $next </dev/null &
        pid[slot]=$! index[slot]=$next suspect[slot]=''
        next=$((next + 1)) running=$((running + 1))
    done
    if read -r -u 3 slot outcome && [ "$slot" != tick ]; then
        settle "$slot" "$outcome"
    else # killed by somebody, or by the system for want of memory? Looked at twice: its news may be on the way
        for ((slot = 0; slot < parallel; slot++)); do
            if [ -z "${pid[slot]-}" ] || kill -0 "${pid[slot]}" 2>/dev/null; then continue; fi
            if [ -n "${suspect[slot]}" ]; then settle $slot failed; else suspect[slot]=yes; fi
        done
    fi
    progress
done

# The end --------------------------------------------------------------------------------------------------------------

clear_line
for one in $ticker ${pid[@]+"${pid[@]}"}; do
    [ -z "$one" ] || kill "$one" 2>/dev/null
done
wait
echo 'end -' >&3
while read -r -u 3 slot outcome && [ "$slot" != end ]; do # what was finished in the meantime
    [ "$outcome" != 'done' ] || captioned=$((captioned + 1)) ended=$((ended + 1))
done
[ -z "$stop" ] || printf '%s: %s\n' "$me" "$stopped" >&2
printf '%d captioned, %d skipped, %d failed' $captioned $skipped $failed
[ -z "$stop$interrupted" ] || printf ', %d left; run it again to go on' $((total - ended))
printf '; %d pictures in %s\n' $all "$(span $((SECONDS - began_s)))"
[ -z "$interrupted" ] || exit "$interrupted"
[ -z "$stop" ] || exit "$stop"
[ $((failed + unread)) -eq 0 ] || exit 1
