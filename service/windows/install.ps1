<#
.SYNOPSIS
Installs vision-server as a Windows service, by NSSM (nssm.cc), or updates its settings. Run it as administrator, out of
a checkout in which vision-server.bat has been started once: that makes the .venv.

.PARAMETER Model
The checkpoint, as `vision-server.bat models` lists them.
.PARAMETER Nssm
nssm.exe, if it is not on the path.
.PARAMETER Settings
More settings, NAME=VALUE each: VISION_SERVER_API_KEY=..., VISION_SERVER_IDLE_TIMEOUT_S=600.
.PARAMETER WhatIf
Only say what would be done.
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [string]$Model = 'promptgen-large',
    [string]$Nssm = 'nssm.exe',
    [string[]]$Settings = @()
)
Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'
$Name = 'vision-server'

function Stop-With([string]$Message) {
    [Console]::Error.WriteLine("vision-server: $Message")
    exit 1
}

# Runs NSSM; its words are shown only where it fails.
function Invoke-Nssm([string[]]$Words) {
    if (-not $PSCmdlet.ShouldProcess($Name, "nssm $($Words -join ' ')")) { return }
    # Here alone: Windows PowerShell 5.1 takes a line on standard error for an error of the script, and would end.
    $ErrorActionPreference = 'Continue'
    $said = & $Nssm @Words 2>&1
    # It writes UTF-16, whatever reads it.
    if ($LASTEXITCODE -ne 0) { Stop-With "nssm $($Words[0]) failed: $(($said -join ' ') -replace '\0', '')" }
}

$root = Split-Path -Parent (Split-Path -Parent $PSScriptRoot)
$python = Join-Path $root '.venv\Scripts\python.exe'
if (-not (Get-Command $Nssm -ErrorAction SilentlyContinue)) { Stop-With "there is no $Nssm; get it from nssm.cc, or name it with -Nssm." }
if (-not (Test-Path -LiteralPath $python)) { Stop-With "there is no $python; run vision-server.bat --version first." }
$admin = [Security.Principal.WindowsBuiltInRole]::Administrator
$me = New-Object Security.Principal.WindowsPrincipal ([Security.Principal.WindowsIdentity]::GetCurrent())
if (-not $WhatIfPreference -and -not $me.IsInRole($admin)) { Stop-With 'this needs a PowerShell that runs as administrator.' }

# What the service keeps: models and log. The service's user has no home that anybody would look into.
$data = Join-Path $env:ProgramData 'vision-server'
if ($PSCmdlet.ShouldProcess($data, 'make folder')) { New-Item -ItemType Directory -Force -Path $data | Out-Null }

$there = Get-Service -Name $Name -ErrorAction SilentlyContinue
if ($there) {
    if ($there.Status -ne 'Stopped') { Invoke-Nssm @('stop', $Name) }
} else {
    Invoke-Nssm @('install', $Name, $python)
}
Invoke-Nssm @('set', $Name, 'Application', $python)
Invoke-Nssm @('set', $Name, 'AppDirectory', $root)
Invoke-Nssm @('set', $Name, 'AppParameters', '-m vision_server serve')
Invoke-Nssm @('set', $Name, 'DisplayName', 'vision-server')
Invoke-Nssm @('set', $Name, 'Description', 'Captions by Florence-2, on demand.')
Invoke-Nssm @('set', $Name, 'Start', 'SERVICE_AUTO_START')
# A user without rights: it may read the checkout, and write below ProgramData where that is allowed.
Invoke-Nssm @('set', $Name, 'ObjectName', 'NT AUTHORITY\LocalService', '')
if ($PSCmdlet.ShouldProcess($data, 'let LocalService write')) {
    & icacls.exe $data /grant '*S-1-5-19:(OI)(CI)M' /Q | Out-Null
    if ($LASTEXITCODE -ne 0) { Stop-With "icacls cannot change $data" }
}
$environment = @("VISION_SERVER_MODEL=$Model", "HF_HOME=$data\huggingface", 'PYTHONUTF8=1') + $Settings
Invoke-Nssm (@('set', $Name, 'AppEnvironmentExtra') + $environment)
# Ctrl-C first: the daemon finishes what is in flight. 45 s are more than shutdown_grace_s, then it is ended with its worker.
Invoke-Nssm @('set', $Name, 'AppStopMethodConsole', '45000')
Invoke-Nssm @('set', $Name, 'AppKillProcessTree', '1')
# Again when it crashed; not when it left, nor for settings (2) that no restart can mend.
Invoke-Nssm @('set', $Name, 'AppExit', 'Default', 'Restart')
Invoke-Nssm @('set', $Name, 'AppExit', '0', 'Exit')
Invoke-Nssm @('set', $Name, 'AppExit', '2', 'Exit')
Invoke-Nssm @('set', $Name, 'AppRestartDelay', '2000')
Invoke-Nssm @('set', $Name, 'AppStderr', "$data\vision-server.log")
Invoke-Nssm @('set', $Name, 'AppRotateFiles', '1')
Invoke-Nssm @('set', $Name, 'AppRotateOnline', '1')
Invoke-Nssm @('set', $Name, 'AppRotateBytes', '10485760')
Invoke-Nssm @('start', $Name)
Write-Output "vision-server: the service is installed; its log is $data\vision-server.log"
