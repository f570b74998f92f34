# Captions the pictures of a folder into text files beside them. Runs on Windows PowerShell 5.1 and on PowerShell 7,
# with vision-client.ps1 in the same folder. clients/README.md tells the rest. ASCII only, as there.
. (Join-Path $PSScriptRoot 'vision-client.ps1')
$me = 'vision-caption-folder-images'

$usage = @'
usage: vision-caption-folder-images.ps1 [options] <prompt> <extension> <folder>

  <prompt>      CAPTION, GENERATE_TAGS ... in any letter case; with <> it needs quotes
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
'@

# Arguments -----------------------------------------------------------------------------------------------------------

$overwrite = $false
$parallel = '4'
$patience = '600'
$query = ''
$region = $false
$namesOnly = $false
$words = @()
for ($i = 0; $i -lt $args.Count; $i++) {
    # Typed without quotes, 1,2,3,4 arrives as an array.
    $word = @($args[$i]) -join ','
    if ($namesOnly) {
        $words += $word
        continue
    }
    if ($word -cmatch '^--(parallel|wait|text|region)(=|$)') {
        $name = $Matches[1]
        if ($Matches[2] -eq '=') {
            $value = $word.Substring($word.IndexOf('=') + 1)
        } else {
            $i++
            if ($i -ge $args.Count) { Stop-Misused "--$name needs a value" }
            $value = @($args[$i]) -join ','
        }
        if ($name -eq 'parallel') { $parallel = $value }
        if ($name -eq 'wait') { $patience = $value }
        if ($name -eq 'text') { $query += '&text_input=' + [Uri]::EscapeDataString($value) }
        if ($name -eq 'region') {
            $query += '&region=' + [Uri]::EscapeDataString($value)
            $region = $true
        }
    } elseif (($word -eq '-h') -or ($word -eq '--help')) {
        Write-Output $usage
        exit 0
    } elseif ($word -eq '--') {
        $namesOnly = $true
    } elseif ($word -eq '--overwrite') {
        $overwrite = $true
    } elseif ($word -like '-?*') {
        Stop-Misused "unknown option $word"
    } else {
        $words += $word
    }
}
if ($words.Count -eq 0) {
    [Console]::Error.WriteLine($usage)
    exit 64
}
if ($words.Count -ne 3) {
    Stop-Misused "a prompt, an extension and a folder are asked for, and $($words.Count) words are there"
}
if (($parallel -notmatch '^[0-9]{1,3}$') -or ([int]$parallel -lt 1) -or ([int]$parallel -gt 256)) {
    Stop-Misused '--parallel takes a number from 1 to 256'
}
if ($patience -notmatch '^[0-9]{1,6}$') { Stop-Misused '--wait takes a number of seconds' }
$parallel = [int]$parallel
$patience = [int]$patience

$prompt = $words[0]
$extension = $words[1] -replace '^\.', ''
$kinds = 'jpg', 'jpeg', 'jpe', 'jfif', 'png', 'webp', 'gif', 'bmp', 'tif', 'tiff', 'avif', 'heic', 'heif'
if (-not $prompt) { Stop-Misused 'the prompt is empty' }
if (($extension -eq '') -or ($extension -match '[/\\:*?"<>|\x00-\x1f\x7f]|[. ]$')) {
    Stop-Misused "'$extension' is no extension: give one like txt"
}
if ($kinds -contains ($extension -split '\.')[-1]) {
    Stop-Misused "'$extension' is what pictures are called: name the extension of the text files, like txt"
}
# .NET has its own idea of the current folder, and -Path would read brackets in a name as a pattern.
$folder = $null
try { $folder = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($words[2]) } catch { }
if (-not $folder) { Stop-Client 66 "there is no folder '$($words[2])'" }
if ([System.IO.File]::Exists($folder)) { Stop-Client 66 "'$($words[2])' is no folder" }
if (-not [System.IO.Directory]::Exists($folder)) { Stop-Client 66 "there is no folder '$($words[2])'" }
try { [void][System.IO.Directory]::GetFiles($folder, 'x') } catch { Stop-Client 66 "'$($words[2])' cannot be read" }
Find-Server

# The server: is it one, and does it know the prompt -----------------------------------------------------------------

$known = @((Get-Answer '/prompts?all=1' $null) -split "`n")
$bare = $prompt -replace '^<', '' -replace '>$', ''
if ($known -notcontains '<CAPTION>') { Stop-Client 70 "what answers at $base is no vision-server" }
if (($known -notcontains "<$bare>") -and ($known -notcontains $bare)) {
    Stop-Client 65 "the server knows no prompt '$prompt'; it takes $($known -join ' ')"
}

# What there is to do -------------------------------------------------------------------------------------------------

$toTerminal = -not [Console]::IsErrorRedirected
$script:failed = 0

function Get-Shown([string]$Text) { return ($Text -replace '[\x00-\x1f\x7f]', '?') }

function Clear-Line { if ($toTerminal) { [Console]::Error.Write("`r" + (' ' * 78) + "`r") } }

# One picture has failed.
function Write-Fault([string]$Picture, [string]$Reason) {
    $script:failed++
    Clear-Line
    [Console]::Error.WriteLine("${me}: $(Get-Shown $Picture): $Reason")
}

$unread = @()
$quietly = @{ ErrorAction = 'SilentlyContinue'; ErrorVariable = 'unread' }
$found = @(Get-ChildItem -LiteralPath $folder -Recurse -File -Force @quietly |
        Where-Object { ($kinds -contains $_.Extension.TrimStart('.')) -and (-not $_.Name.StartsWith('._')) } |
        ForEach-Object { $_.FullName })
if ($unread.Count -gt 0) { [Console]::Error.WriteLine("${me}: $(Get-Shown ([string]$unread[0]))") }
# In the order of the shell client: by what stands before the extension, then by that.
$keys = [string[]]@($found | ForEach-Object { [System.IO.Path]::ChangeExtension($_, $null).TrimEnd('.') + '//' + $_ })
$found = [string[]]$found
[Array]::Sort($keys, $found, [StringComparer]::Ordinal)
# Where the file system takes a.txt and A.txt for one file, so do the claims.
$comparer = [StringComparer]::Ordinal
if ([System.IO.Path]::DirectorySeparatorChar -eq '\') { $comparer = [StringComparer]::OrdinalIgnoreCase }
$claims = New-Object 'System.Collections.Generic.Dictionary[string,string]' -ArgumentList $comparer
$todo = @()
$skipped = 0
foreach ($picture in $found) {
    $sidecar = [System.IO.Path]::ChangeExtension($picture, $extension)
    $name = [System.IO.Path]::GetFileName($sidecar)
    if ($claims.ContainsKey($sidecar)) {
        Write-Fault $picture "$(Get-Shown $claims[$sidecar]) already claims $(Get-Shown $name)"
        continue
    }
    $claims[$sidecar] = [System.IO.Path]::GetFileName($picture)
    if ([System.IO.Directory]::Exists($sidecar)) {
        Write-Fault $picture "$(Get-Shown $name) is a folder"
    } elseif ((-not $overwrite) -and [System.IO.File]::Exists($sidecar)) {
        $skipped++
    } else {
        $todo += @{
            Picture = $picture; Sidecar = $sidecar; Task = $null; Over = $false
            Due = 0.0; Since = $null; Pause = 1; Breaks = 0
        }
    }
}
$all = $found.Count

# One picture ---------------------------------------------------------------------------------------------------------

$clock = [System.Diagnostics.Stopwatch]::StartNew()
$script:captioned = 0
$script:ended = 0
$script:stop = 0
$script:stopped = ''
$script:part = ''

function Stop-Run([hashtable]$Job, [int]$Code, [string]$Reason) {
    $Job.Over = $true
    $script:stop = $Code
    $script:stopped = $Reason
}

function Set-Failed([hashtable]$Job, [string]$Reason) {
    $Job.Over = $true
    $script:ended++
    Write-Fault $Job.Picture $Reason
}

function Send-Picture([hashtable]$Job) {
    if (-not [System.IO.File]::Exists($Job.Picture)) {
        Set-Failed $Job 'there is no such file any more'
        return
    }
    try {
        $bytes = [System.IO.File]::ReadAllBytes($Job.Picture)
    } catch {
        Set-Failed $Job 'it cannot be read'
        return
    }
    if ($bytes.Length -eq 0) {
        # The server would take it for a request without a picture.
        Set-Failed $Job 'it is empty'
        return
    }
    $Job.Task = Send-Request $client ('/process_image?prompt=' + [Uri]::EscapeDataString($prompt) + $query) $bytes
}

# Whole or not at all: it gets its name when it is complete.
function Write-Sidecar([string]$Sidecar, [string]$Text) {
    $script:part = Join-Path ([System.IO.Path]::GetDirectoryName($Sidecar)) ".vision-$PID.part"
    $encoding = New-Object System.Text.UTF8Encoding -ArgumentList $false
    [System.IO.File]::WriteAllText($part, $Text.TrimEnd("`n") + "`n", $encoding)
    if ([System.IO.File]::Exists($Sidecar)) {
        [System.IO.File]::Replace($part, $Sidecar, [System.Management.Automation.Language.NullString]::Value)
    } else {
        [System.IO.File]::Move($part, $Sidecar)
    }
}

# Its request has ended: write the answer, give up, or come again.
function Complete-Picture([hashtable]$Job) {
    $task = $Job.Task
    $Job.Task = $null
    $after = $null
    $code = 69
    if ($task.IsFaulted -or $task.IsCanceled) {
        $cause = $null
        if ($task.IsFaulted) { $cause = $task.Exception.GetBaseException() }
        $reason = "cannot reach ${base}: timed out"
        if ($cause) { $reason = "cannot reach ${base}: $(Get-Shown $cause.Message)" }
        $away = $false
        if ($cause -is [System.Net.Sockets.SocketException]) {
            $away = ('ConnectionReset', 'ConnectionAborted') -notcontains [string]$cause.SocketErrorCode
        }
        if (-not $away) {
            # A connection that breaks again and again while others are made: it is this picture.
            $Job.Breaks++
            if ($Job.Breaks -ge 4) {
                Set-Failed $Job $reason
                return
            }
        }
    } else {
        $response = $task.Result
        $status = [int]$response.StatusCode
        $answer = Read-Answer $response
        if ($status -eq 200) {
            try {
                Write-Sidecar $Job.Sidecar $answer
            } catch {
                Remove-Part
                Set-Failed $Job "$(Get-Shown ([System.IO.Path]::GetFileName($Job.Sidecar))) cannot be written"
                return
            }
            $Job.Over = $true
            $script:captioned++
            $script:ended++
            return
        }
        $reason = Get-Refusal $status $answer
        if ((400, 401, 403, 404) -contains $status) {
            # Nothing about the picture; but a region may be out of this one and in others.
            if (((Get-ExitStatus $status) -eq 65) -and (($captioned -gt 0) -or $region)) {
                Set-Failed $Job $reason
            } else {
                Stop-Run $Job (Get-ExitStatus $status) $reason
            }
            return
        }
        if ((429, 502, 503, 504) -notcontains $status) {
            if (($status -ge 400) -and ($status -le 500)) {
                Set-Failed $Job $reason
            } else {
                Stop-Run $Job 70 $reason
            }
            return
        }
        $code = 75
        if ($response.Headers.RetryAfter -and $response.Headers.RetryAfter.Delta) {
            $after = $response.Headers.RetryAfter.Delta.TotalSeconds
        }
    }
    $now = $clock.Elapsed.TotalSeconds
    if ($null -eq $Job.Since) { $Job.Since = $now }
    $left = $Job.Since + $patience - $now
    if ($left -le 0) {
        Stop-Run $Job $code $reason
        return
    }
    if ($null -eq $after) { $after = $Job.Pause }
    $Job.Pause = [Math]::Min(2 * $Job.Pause, 30)
    $Job.Due = $now + [Math]::Max(1, [Math]::Min($after, $left))
}

function Remove-Part {
    if ($part -and [System.IO.File]::Exists($part)) { try { [System.IO.File]::Delete($part) } catch { } }
}

# All of them ---------------------------------------------------------------------------------------------------------

function Get-Span([double]$Seconds) {
    $whole = [int][Math]::Floor($Seconds)
    $minutes = [int][Math]::Floor($whole / 60)
    if ($whole -ge 3600) { return '{0} h {1:00} min' -f [int][Math]::Floor($minutes / 60), ($minutes % 60) }
    if ($whole -ge 60) { return '{0} min {1:00} s' -f $minutes, ($whole % 60) }
    return "$whole s"
}

# Count and time left: on a terminal one line that is kept up to date, elsewhere a line every ten seconds.
$script:told = 0.0
function Write-State {
    $line = "$ended of $($todo.Count)"
    $spent = $clock.Elapsed.TotalSeconds
    if ($ended -gt 0) { $line += ", $(Get-Span ($spent * ($todo.Count - $ended) / $ended)) left" }
    if ($failed -gt 0) { $line += ", $failed failed" }
    if ($toTerminal) {
        [Console]::Error.Write("`r" + $line.PadRight(78))
    } elseif (($spent - $told) -ge 10) {
        $script:told = $spent
        [Console]::Error.WriteLine("${me}: $line")
    }
}

# Windows PowerShell 5.1 makes two connections to a server at most, unless told otherwise.
[System.Net.ServicePointManager]::DefaultConnectionLimit = [Math]::Max($parallel, 2)
$client = New-Client
$jobs = @()
$next = 0
$finished = $false
try {
    while ((-not $stop) -and (($next -lt $todo.Count) -or ($jobs.Count -gt 0))) {
        while (($jobs.Count -lt $parallel) -and ($next -lt $todo.Count)) {
            $jobs += $todo[$next]
            $next++
        }
        foreach ($job in $jobs) {
            if ((-not $job.Task) -and ($clock.Elapsed.TotalSeconds -ge $job.Due)) { Send-Picture $job }
        }
        $tasks = [System.Threading.Tasks.Task[]]@($jobs | ForEach-Object { $_.Task } | Where-Object { $_ })
        if ($tasks.Count -gt 0) {
            [void][System.Threading.Tasks.Task]::WaitAny($tasks, 1000)
        } else {
            Start-Sleep -Milliseconds 200
        }
        foreach ($job in $jobs) {
            if ($job.Task -and $job.Task.IsCompleted -and (-not $stop)) { Complete-Picture $job }
        }
        $jobs = @($jobs | Where-Object { -not $_.Over })
        Write-State
    }
    $finished = $true
} finally {
    # After Ctrl-C, too: nothing is left half written, and the next run goes on.
    $client.Dispose()
    Remove-Part
    Clear-Line
    if ($stop) { [Console]::Error.WriteLine("${me}: $stopped") }
    $summary = "$captioned captioned, $skipped skipped, $failed failed"
    if ($stop -or (-not $finished)) { $summary += ", $($todo.Count - $ended) left; run it again to go on" }
    [Console]::Out.WriteLine("$summary; $all pictures in $(Get-Span $clock.Elapsed.TotalSeconds)")
}
if ($stop) { exit $stop }
if (($failed + $unread.Count) -gt 0) { exit 1 }
exit 0
