"""Running code that nobody trusts, in processes that cannot outlive their execution."""

from __future__ import annotations

from runtime.sandbox.execution import Ending as Ending
from runtime.sandbox.execution import Execution as Execution
from runtime.sandbox.execution import Limits as Limits
from runtime.sandbox.execution import Sandbox as Sandbox
from runtime.sandbox.execution import Tool as Tool
from runtime.sandbox.footing import closed_folder as closed_folder
from runtime.sandbox.footing import code_uids as code_uids
from runtime.sandbox.guard import guard_own_process as guard_own_process
from runtime.sandbox.process import ProcessSandbox as ProcessSandbox
from store.jsontypes import JsonValue as JsonValue
