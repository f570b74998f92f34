# Asks a vision-server about a picture. Runs on Windows PowerShell 5.1 and on PowerShell 7. clients/README.md tells the
# rest. ASCII only: 5.1 reads a file without a byte order mark in the system's code page.
# There is no param() block: $args leaves -h and --text as they were typed, as in vision-client.sh.
$ErrorActionPreference = 'Stop'
$me = 'vision-client' # who speaks

$usage = @'
usage: vision-client.ps1 [--text TEXT] [--region X1,Y1,X2,Y2] <prompt> <image>
       vision-client.ps1 prompts        the prompts the server advises, one a line
       vision-client.ps1 model          the checkpoint it serves

  <prompt>   CAPTION, OD, OCR ... in any letter case; with <> it needs quotes
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
'@

function Stop-Client([int]$Code, [string]$Message) {
    [Console]::Error.WriteLine("${me}: $Message")
    exit $Code
}

function Stop-Misused([string]$Message) {
    Stop-Client 64 "$Message ($me.ps1 --help)"
}

# Sets $base, the server's address without a slash at its end, and $address, the same as Uri.
function Find-Server {
    $script:base = $env:VISION_HOST
    if (-not $base) { $script:base = 'http://127.0.0.1:54880' }
    if ($base -notmatch '://') { $script:base = "http://$base" }
    $script:base = $base.TrimEnd('/')
    $found = $null
    if (-not [Uri]::TryCreate($base, [UriKind]::Absolute, [ref]$found)) {
        Stop-Misused "VISION_HOST is not an address: $base"
    }
    if (($found.Scheme -ne 'http') -and ($found.Scheme -ne 'https')) {
        Stop-Misused "VISION_HOST must be an http or https address: $base"
    }
    if ($env:VISION_API_KEY -match '[\x00-\x1f\x7f]') { Stop-Misused 'VISION_API_KEY holds a control character' }
    $script:address = $found
}

function New-Client {
    Add-Type -AssemblyName System.Net.Http
    $handler = New-Object System.Net.Http.HttpClientHandler
    $handler.AllowAutoRedirect = $false
    # A proxy leads to other machines, not to this one.
    if ($address.IsLoopback) { $handler.UseProxy = $false }
    $client = New-Object System.Net.Http.HttpClient -ArgumentList $handler
    # A first request waits for the model to load; the server has its own limit.
    $client.Timeout = [System.Threading.Timeout]::InfiniteTimeSpan
    return $client
}

# The task of one request. $Body is $null for GET.
function Send-Request($Client, [string]$Path, [byte[]]$Body) {
    $method = [System.Net.Http.HttpMethod]::Get
    if ($null -ne $Body) { $method = [System.Net.Http.HttpMethod]::Post }
    $request = New-Object System.Net.Http.HttpRequestMessage -ArgumentList $method, ([Uri]($base + $Path))
    [void]$request.Headers.TryAddWithoutValidation('Accept', 'text/plain')
    if ($env:VISION_API_KEY) {
        [void]$request.Headers.TryAddWithoutValidation('Authorization', "Bearer $($env:VISION_API_KEY)")
    }
    if ($null -ne $Body) {
        # The comma keeps the array one argument.
        $request.Content = New-Object System.Net.Http.ByteArrayContent -ArgumentList (, $Body)
        [void]$request.Content.Headers.TryAddWithoutValidation('Content-Type', 'application/octet-stream')
    }
    return $Client.SendAsync($request)
}

function Read-Answer($Response) {
    $bytes = $Response.Content.ReadAsByteArrayAsync().GetAwaiter().GetResult()
    return [System.Text.Encoding]::UTF8.GetString($bytes)
}

# What is wrong as one line; a page of HTML comes from something else.
function Get-Refusal([int]$Status, [string]$Answer) {
    if (($Status -lt 400) -or ($Status -gt 599)) { return "$base answers with status $Status; is it a vision-server?" }
    # JSON comes from a proxy of ours, a page of HTML from something else.
    $reason = ($Answer -split "`n")[0] -replace '^\{"error": "([^"]*)".*', '$1'
    if ((-not $reason) -or ($reason -match '^<(!|html)')) { $reason = "the server answered with status $Status" }
    return $reason
}

# The exit status for an HTTP status.
function Get-ExitStatus([int]$Status) {
    if (($Status -eq 401) -or ($Status -eq 403)) { return 77 }
    if (($Status -eq 429) -or ($Status -eq 503) -or ($Status -eq 504)) { return 75 }
    if (($Status -ge 400) -and ($Status -lt 500)) { return 65 }
    return 70
}

# One request; the answer, or it ends the script.
function Get-Answer([string]$Path, [byte[]]$Body) {
    try {
        $response = (Send-Request (New-Client) $Path $Body).GetAwaiter().GetResult()
        $answer = Read-Answer $response
    } catch {
        Stop-Client 69 "cannot reach ${base}: $($_.Exception.GetBaseException().Message)"
    }
    $status = [int]$response.StatusCode
    if ($status -ne 200) { Stop-Client (Get-ExitStatus $status) (Get-Refusal $status $answer) }
    if ($answer.EndsWith("`n")) { $answer = $answer.Substring(0, $answer.Length - 1) }
    return $answer
}

# Captions may hold any letter; without a console there is no encoding to set.
try { [Console]::OutputEncoding = New-Object System.Text.UTF8Encoding -ArgumentList $false } catch { }
# 5.1 on an older .NET offers TLS 1.0 only; 0 leaves the choice to the system.
$tls = [Net.ServicePointManager]::SecurityProtocol
if ([int]$tls -ne 0) { [Net.ServicePointManager]::SecurityProtocol = $tls -bor [Net.SecurityProtocolType]::Tls12 }

# Another script that reads this one (vision-caption-folder-images.ps1) wants what stands above.
if ($MyInvocation.InvocationName -eq '.') { return }

$query = ''
$prompt = $null
$image = $null
for ($i = 0; $i -lt $args.Count; $i++) {
    # Typed without quotes, 1,2,3,4 arrives as an array.
    $word = @($args[$i]) -join ','
    if (($word -eq '-h') -or ($word -eq '--help')) {
        Write-Output $usage
        exit 0
    } elseif ($word -match '^--(text|region)(=|$)') {
        $name = $Matches[1]
        if ($Matches[2] -eq '=') {
            $value = $word.Substring($word.IndexOf('=') + 1)
        } else {
            $i++
            if ($i -ge $args.Count) { Stop-Misused "--$name needs a value" }
            $value = @($args[$i]) -join ','
        }
        if ($name -eq 'text') { $name = 'text_input' }
        $query += "&$name=" + [Uri]::EscapeDataString($value)
    } elseif (($word -like '-?*') -and ($null -eq $prompt)) {
        Stop-Misused "unknown option $word"
    } elseif ($null -eq $prompt) {
        # The word after the prompt is the picture, even if it starts with a dash.
        $prompt = $word
        if (($i + 1) -lt $args.Count) {
            $i++
            $image = [string]$args[$i]
        }
    } else {
        Stop-Misused "one prompt and one picture are asked for; '$word' is too much"
    }
}

Find-Server

if ($null -eq $prompt) {
    [Console]::Error.WriteLine($usage)
    exit 64
}
if ($null -eq $image) {
    if (($prompt -ne 'prompts') -and ($prompt -ne 'model')) { Stop-Misused "no picture is named after '$prompt'" }
    if ($query) { Stop-Misused "$prompt takes no options" }
    Write-Output (Get-Answer "/$($prompt.ToLowerInvariant())" $null)
    exit 0
}
if (-not $prompt) { Stop-Misused 'the prompt is empty' }
# .NET has its own idea of the current folder, and -Path would read brackets in a name as a pattern.
$file = $null
try { $file = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($image) } catch { }
if (-not $file) { Stop-Client 66 "there is no file '$image'" }
if ([System.IO.Directory]::Exists($file)) { Stop-Client 66 "'$image' is a folder" }
if (-not [System.IO.File]::Exists($file)) { Stop-Client 66 "there is no file '$image'" }
try { $bytes = [System.IO.File]::ReadAllBytes($file) } catch { Stop-Client 66 "'$image' cannot be read" }
Write-Output (Get-Answer ("/process_image?prompt=" + [Uri]::EscapeDataString($prompt) + $query) $bytes)
exit 0
