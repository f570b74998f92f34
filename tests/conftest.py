"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from vision_server.settings import let_waiting_threads_sleep

let_waiting_threads_sleep()  # before anything imports torch: the tests share their cores with the daemons they start

# A busy machine is slow at everything; how long an example took says nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
