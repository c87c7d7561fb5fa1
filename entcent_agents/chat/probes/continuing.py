"""How a server is made to go on from the beginning of an answer."""

from __future__ import annotations

from entcent_agents.chat.continuation import (
    PROBE_QUESTION,
    PROBE_TOKENS,
    ContinuationMethod,
    Continued,
    Joint,
    goes_on,
    half_answer,
)
from entcent_agents.chat.probes.asking import Asking, is_refusal
from entcent_agents.chat.probes.measured import Measured, not_measured
from entcent_agents.errors import ModelServerError

_MEANS = {
    Joint.EXACT: "an answer is continued from its own tokens",
    Joint.RETOKENISED: "an answer is continued from its text, read as other tokens",
    Joint.UNCHECKED: "an answer is continued from its text; the server does not tell its tokens",
}
_TELLS_IF_ASKED = "; with extra_body={'return_token_ids': True} it may"
"""What is added of a server that tells a prompt's tokens, and those of answers only where it is asked for them."""


async def continuation(asking: Asking) -> Measured:
    """Every way to continue half of an answer, and the best that goes on as the server did by itself."""
    payload = asking.payload(PROBE_QUESTION, max_tokens=PROBE_TOKENS, temperature=0.0)
    half = half_answer((await asking.answer(payload)).choices[0])
    if half is None:
        return not_measured("the answer was too short to be cut")
    found: dict[ContinuationMethod, Continued] = {}
    for method in ContinuationMethod:
        if method.endswith("message"):
            asking.add(requests=1)  # the others ask for tokens first, and mostly end there
        try:
            continued = await goes_on(asking.client(), payload, half, method)
        except ModelServerError as error:
            if not is_refusal(error):
                raise
            continued = None  # some servers fail on what they do not know
        if continued:
            found[method] = continued
            asking.add(
                requests=not method.endswith("message"),
                prompt_tokens=continued.completion.prompt_tokens,
                generated_tokens=continued.completion.generated_tokens,
            )
    details = {method.value: found[method].joint.value if method in found else "no" for method in ContinuationMethod}
    if not found:
        return Measured(
            value="none", shown="no", means="answers cannot be continued, only sampled anew", details=details
        )
    best = next(iter(found))
    means = _MEANS[found[best].joint]
    if best is ContinuationMethod.VLLM_TOKENS and found[best].joint is Joint.UNCHECKED:
        means += _TELLS_IF_ASKED
    return Measured(value=best.value, shown=best.value, means=means, details=details)
