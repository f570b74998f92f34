@echo off
rem Runs vision-server from a checkout. The first run makes .venv and installs; later runs only start.
rem
rem   vision-server.bat [flags]              serve (--help lists the flags)
rem   vision-server.bat demo                 caption the bundled pictures with the embedded checkpoint
rem   vision-server.bat evaluate --data FILE ask a checkpoint what you know the answers to; installs what that needs
rem   vision-server.bat finetune DATA ...    teach a checkpoint from your own pictures; installs what that needs
rem   vision-server.bat bulk SOURCE DEST ... ask it about a whole folder, tars, parquet, through Ray; installs that
rem   vision-server.bat test [pytest args]   ruff, mypy and pytest; with arguments only pytest
rem
rem PYTHON names the interpreter that .venv is made with. Nothing is installed again until pyproject.toml or
rem constraints.txt change. Paths stand outside parentheses, where an ampersand or a bracket in them is harmless.
rem One launcher at a time looks after .venv, another waits. The lock is a file that is held open: Windows opens it for
rem no second one to write, and closes it whatever ends the first.
setlocal EnableExtensions DisableDelayedExpansion
set "PYTHONHOME="
set "PYTHONPATH="
set "ROOT=%~dp0"
set "VENV=%ROOT%.venv"
set "PY=%VENV%\Scripts\python.exe"
set "LOG=%VENV%\install.log"
set "KEY=%VENV%\.key"
set "LOCK=%VENV%\.lock"
set "WAITED=0"
set "WHAT=base"
set "TARGET=."
if /i "%~1"=="evaluate" goto ensure_train
if /i "%~1"=="finetune" goto ensure_train
if /i "%~1"=="bulk" goto ensure_ray
if /i not "%~1"=="test" goto ensure
set "WHAT=test"
set "TARGET=.[test]"
goto ensure

:ensure_train
set "WHAT=train"
set "TARGET=.[train]"
goto ensure

:ensure_ray
set "WHAT=ray"
set "TARGET=.[ray]"

:ensure
if not exist "%VENV%\" mkdir "%VENV%" >nul 2>nul
if not exist "%VENV%\" goto cannot_write

:lock
rem Tried without words first: where another one has it, cmd says so in its own.
call :try_lock 2>nul
if not defined LOCKED goto wait
set "LOCKED="
call :locked >"%LOCK%"
set "CODE=%ERRORLEVEL%"
if not defined LOCKED goto wait
if not "%CODE%"=="0" exit /b 1
goto start

:wait
if not exist "%LOCK%" goto cannot_write
if "%WAITED%"=="3600" goto cannot_write
if "%WAITED%"=="0" >&2 echo vision-server: waiting for the install that another vision-server.bat is doing
set /a WAITED+=1 >nul
"%SystemRoot%\System32\ping.exe" -n 2 127.0.0.1 >nul 2>nul
goto lock

:locked
rem The part that has the lock. Its standard output is the lock, so what it says goes to standard error.
set "LOCKED=1"
if not exist "%PY%" goto make_venv
if exist "%VENV%\.making" goto make_venv
"%PY%" -I -c "import sys, pip; sys.exit(sys.version_info < (3, 10))" >nul 2>nul
if errorlevel 1 goto make_venv

:check_stamp
call :write_key
if errorlevel 1 goto cannot_write
if not exist "%VENV%\Scripts\vision-server.exe" goto install
if not exist "%VENV%\.stamp-%WHAT%" goto install
fc /b "%KEY%" "%VENV%\.stamp-%WHAT%" >nul 2>nul
if errorlevel 1 goto install
del /q "%KEY%" >nul 2>nul
exit /b 0

:install
rem A stamp that no longer matches goes first, so that an install that is cut short is done again.
fc /b "%KEY%" "%VENV%\.stamp-base" >nul 2>nul
if errorlevel 1 del /q "%VENV%\.stamp-base" >nul 2>nul
fc /b "%KEY%" "%VENV%\.stamp-train" >nul 2>nul
if errorlevel 1 del /q "%VENV%\.stamp-train" >nul 2>nul
fc /b "%KEY%" "%VENV%\.stamp-ray" >nul 2>nul
if errorlevel 1 del /q "%VENV%\.stamp-ray" >nul 2>nul
fc /b "%KEY%" "%VENV%\.stamp-test" >nul 2>nul
if errorlevel 1 del /q "%VENV%\.stamp-test" >nul 2>nul
>&2 echo vision-server: installing into .venv; the first time takes minutes (log: "%LOG%")
pushd "%ROOT%"
"%PY%" -m pip install --disable-pip-version-check --no-input -q -c constraints.txt -e "%TARGET%" >"%LOG%" 2>&1 <nul
set "CODE=%ERRORLEVEL%"
popd
if not "%CODE%"=="0" goto install_failed
copy /b /y "%KEY%" "%VENV%\.stamp-base" >nul
if errorlevel 1 goto cannot_write
if not "%WHAT%"=="base" copy /b /y "%KEY%" "%VENV%\.stamp-%WHAT%" >nul
if errorlevel 1 goto cannot_write
if "%WHAT%"=="test" for %%S in (train ray) do copy /b /y "%KEY%" "%VENV%\.stamp-%%S" >nul
if errorlevel 1 goto cannot_write
del /q "%KEY%" >nul 2>nul
exit /b 0

:start
if "%WHAT%"=="test" goto test
"%VENV%\Scripts\vision-server.exe" %*
exit /b %ERRORLEVEL%

:test
rem shift does not change the whole line of arguments, so its first word is cut off. No quotes around the assignment:
rem those of the arguments protect what is in them.
set ALL=%*
set REST=%ALL:*test=%
cd /d "%ROOT%"
if defined REST goto pytest
"%PY%" -m ruff check .
if errorlevel 1 goto ruff_failed
"%PY%" -m ruff format --check .
if errorlevel 1 goto format_failed
"%PY%" -m mypy
if errorlevel 1 goto mypy_failed

:pytest
"%PY%" -m pytest%REST%
exit /b %ERRORLEVEL%

:make_venv
set "BASE="
set "TOO_OLD="
if not defined PYTHON goto search_python
call :try_python "%PYTHON%"
goto searched

:search_python
call :try_python py -3
if not defined BASE call :try_python python
if not defined BASE call :try_python python3

:searched
if not defined BASE goto no_python
%BASE% -c "import ensurepip, venv" >nul 2>nul
if errorlevel 1 goto no_venv_module
if not exist "%VENV%\pyvenv.cfg" goto create_venv
>&2 echo vision-server: making .venv anew: its Python is gone, too old or was never finished
rem All but the lock, which is open. What says that it is a .venv goes last, so that this is done again if it fails.
rmdir /s /q "%VENV%\Scripts" >nul 2>nul
rmdir /s /q "%VENV%\Lib" >nul 2>nul
rmdir /s /q "%VENV%\Include" >nul 2>nul
if exist "%VENV%\Scripts\" goto venv_in_use
if exist "%VENV%\Lib\" goto venv_in_use
del /q "%VENV%\.stamp-*" "%VENV%\pyvenv.cfg" >nul 2>nul

:create_venv
type nul >"%VENV%\.making"
if not exist "%VENV%\.making" goto cannot_write
%BASE% -m venv "%VENV%" >"%LOG%" 2>&1 <nul
if errorlevel 1 goto venv_failed
del /q "%VENV%\.making" >nul 2>nul
goto check_stamp

:no_python
if defined TOO_OLD goto python_too_old
>&2 echo vision-server: no Python found; install Python 3.10 or newer, or name it in the PYTHON variable
exit /b 1

:python_too_old
>&2 echo vision-server: Python 3.10 or newer is needed, and the one found is older; name a newer one in the PYTHON variable
exit /b 1

:no_venv_module
>&2 echo vision-server: this Python has no venv module; install Python from its own installer
exit /b 1

:venv_in_use
>&2 echo vision-server: cannot clear .venv; is a vision-server still running from it?
exit /b 1

:venv_failed
call :find_why
setlocal EnableDelayedExpansion
>&2 echo vision-server: making .venv failed: !WHY! (log: "!LOG!")
exit /b 1

:install_failed
call :find_why
del /q "%KEY%" >nul 2>nul
setlocal EnableDelayedExpansion
>&2 echo vision-server: the install failed: !WHY! (log: "!LOG!")
exit /b 1

:cannot_write
>&2 echo vision-server: cannot write to "%VENV%"
exit /b 1

:ruff_failed
>&2 echo vision-server: ruff check found faults
exit /b 1

:format_failed
>&2 echo vision-server: some files are not formatted; run .venv\Scripts\ruff format
exit /b 1

:mypy_failed
>&2 echo vision-server: mypy found faults
exit /b 1

rem What follows are subroutines, reached by call only.

:try_lock
set "LOCKED="
call :note_lock >"%LOCK%"
exit /b 0

:note_lock
set "LOCKED=1"
exit /b 0

:try_python
rem Sets BASE to its arguments when they run a Python that is new enough. The Store's stub answers 9009.
%* -c "import sys; sys.exit(0 if sys.version_info[:2] >= (3, 10) else 3)" >nul 2>nul
set "CODE=%ERRORLEVEL%"
if "%CODE%"=="0" set BASE=%*
if "%CODE%"=="3" set "TOO_OLD=1"
exit /b 0

:write_key
rem What an install depends on: where the checkout lies and the two files. Compared byte by byte, so no hash is needed.
>"%KEY%" echo "%ROOT%"
if not exist "%KEY%" exit /b 1
>>"%KEY%" type "%ROOT%pyproject.toml"
>>"%KEY%" type "%ROOT%constraints.txt"
exit /b 0

:find_why
rem Sets WHY to the cause where it is a known one, else to the last error in the log. The full name of find is needed
rem where Unix tools stand first in PATH.
set "FIND=%SystemRoot%\System32\find.exe"
set "WHY=see the log"
for /f "usebackq delims=" %%L in (`%FIND% "ERROR" ^<"%LOG%"`) do set "WHY=%%L"
for %%W in (NewConnectionError NameResolutionError ConnectTimeout ReadTimeout ProxyError ConnectionResetError) do call :if_logged "%%W" "the package index cannot be reached; check the network or the proxy"
call :if_logged "No space left on device" "the disk is full"
exit /b 0

:if_logged
"%FIND%" %1 <"%LOG%" >nul 2>nul
if not errorlevel 1 set "WHY=%~2"
exit /b 0
