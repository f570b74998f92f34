<#
.SYNOPSIS
Takes the Windows service away that install.ps1 has made. Run it as administrator. Models and log stay in ProgramData
unless -Purge is given.

.PARAMETER Nssm
nssm.exe, if it is not on the path.
.PARAMETER Purge
Remove what the service has kept, too.
.PARAMETER WhatIf
Only say what would be done.
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [string]$Nssm = 'nssm.exe',
    [switch]$Purge
)
Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'
$Name = 'vision-server'

function Stop-With([string]$Message) {
    [Console]::Error.WriteLine("vision-server: $Message")
    exit 1
}

function Invoke-Nssm([string[]]$Words) {
    if (-not $PSCmdlet.ShouldProcess($Name, "nssm $($Words -join ' ')")) { return }
    # Here alone: Windows PowerShell 5.1 takes a line on standard error for an error of the script, and would end.
    $ErrorActionPreference = 'Continue'
    $said = & $Nssm @Words 2>&1
    # It writes UTF-16, whatever reads it.
    if ($LASTEXITCODE -ne 0) { Stop-With "nssm $($Words[0]) failed: $(($said -join ' ') -replace '\0', '')" }
}

$there = Get-Service -Name $Name -ErrorAction SilentlyContinue
if ($there) {
    if (-not (Get-Command $Nssm -ErrorAction SilentlyContinue)) { Stop-With "there is no $Nssm; name it with -Nssm." }
    if ($there.Status -ne 'Stopped') { Invoke-Nssm @('stop', $Name) }
    Invoke-Nssm @('remove', $Name, 'confirm')
}
$data = Join-Path $env:ProgramData 'vision-server'
if ($Purge -and (Test-Path -LiteralPath $data)) {
    if ($PSCmdlet.ShouldProcess($data, 'remove folder')) { Remove-Item -LiteralPath $data -Recurse -Force }
}
Write-Output 'vision-server: the service is removed'
