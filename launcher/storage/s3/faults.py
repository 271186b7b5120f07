"""What an S3 client says went wrong, in our words. No error of boto3, botocore or urllib3 leaves this package.

Rules:

1. One line: which object, at which endpoint, what was answered, what to do next.
2. Nothing that a server or client *wrote* is quoted, only its codes: their messages may hold credentials.
3. What may be tried again is an UnavailableError; a refusal (401, 403), wrong settings and a wrong bucket
   are not, and are said at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from launcher.errors import LauncherError, UnavailableError, UsageError
from launcher.storage.port import AccessRefusedError

__all__ = [
    "AbsentError",
    "AccessRefusedError",
    "BrokenBodyError",
    "ContestedError",
    "NoUploadError",
    "Place",
    "TakenError",
    "WrongBytesError",
    "in_our_words",
]


class BrokenBodyError(UnavailableError):
    """A body ended early, or its bytes are not those that the service has a checksum of."""


class WrongBytesError(UnavailableError):
    """The service got other bytes than those that the checksum was made of, and kept nothing."""


class ContestedError(UnavailableError):
    """409: somebody else writes under the same key; read again, then try again."""


class AbsentError(LauncherError):
    """404. Never leaves the package."""


class TakenError(LauncherError):
    """412: the key is there. Never leaves the package."""


class NoUploadError(LauncherError):
    """There is no such multipart upload: it was completed or aborted. Never leaves the package."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call went: the object's or bucket's URL, and the endpoint without what may be secret in it."""

    url: str
    bucket: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.url} at {self.endpoint}"


CHECKSUM_HINT: Final = (
    "if this endpoint knows no checksum headers, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
)
_CREDENTIALS_HINT: Final = (
    "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
)
_NOT_ALLOWED: Final = (
    "look at the policies of bucket and user; without s3:ListBucket, what is absent looks forbidden"
)
_REFUSED: Final = {
    "AllAccessDisabled": "access to this bucket is switched off",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    "ExpiredToken": "the credentials have expired: sign in again",
    "ExpiredTokenException": "the credentials have expired: sign in again",
    "InvalidAccessKeyId": "the access key is not known there: look at AWS_PROFILE and AWS_ENDPOINT_URL",
    "InvalidObjectState": "it is archived: restore it first",
    "InvalidToken": "the session token is not valid: sign in again",
    "RequestTimeTooSkewed": "this machine's clock is off: set it",
    "SignatureDoesNotMatch": "the secret key is wrong, or a proxy changed the request",
    # versitygw's, with 404
    "XAdminUserNotFound": "the access key is not known there: look at AWS_PROFILE and AWS_ENDPOINT_URL",
}
_REGION: Final = frozenset(
    {
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "IncorrectEndpoint",
    }
)
_WRONG_BYTES: Final = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
)
_NO_CREDENTIALS: Final = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "MetadataRetrievalError",
        "TokenRetrievalError",
        "NoAuthTokenError",
        "SSOError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
        "LoginRefreshRequired",
        "LoginTokenLoadError",
    }
)
_SETTINGS: Final = {
    "ProfileNotFound": "there is no such profile: look at AWS_PROFILE",
    "ConfigParseError": "the AWS config file cannot be read",
    "NoRegionError": "set AWS_REGION",
    "InvalidRegionError": "AWS_REGION is no region",
    "ParamValidationError": "the client refuses the request",
    "ValueError": "AWS_ENDPOINT_URL is no URL",
}
#: Everything else of these families is a connection that was not made, or broke.
_CONNECTION: Final = frozenset(
    {"ConnectTimeoutError", "EndpointConnectionError", "ProxyConnectionError"}
)


def in_our_words(exc: Exception, place: Place) -> LauncherError:
    """The error of ours that says what ``exc`` means."""
    names = {kind.__name__ for kind in type(exc).__mro__}
    name = type(exc).__name__
    if "ClientError" in names:
        return _answered(getattr(exc, "response", {}), place)
    if names & _NO_CREDENTIALS:
        return AccessRefusedError(f"{place}: no usable credentials", _CREDENTIALS_HINT)
    if "SSLError" in names and "CERTIFICATE_VERIFY_FAILED" in str(exc):
        return UsageError(
            f"{place}: its certificate is not trusted", "AWS_CA_BUNDLE names the ones that are"
        )
    if names & {"FlexibleChecksumError", "IncompleteReadError"}:
        return BrokenBodyError(f"{place}: the answer was damaged on its way")
    if name in _SETTINGS:
        return UsageError(f"{place}: {_SETTINGS[name]}")
    if "ResponseStreamingError" in names and "IncompleteRead" in str(exc):
        return BrokenBodyError(f"{place}: the answer ended early")
    if names & _CONNECTION:
        return UnavailableError(
            f"{place}: no connection", "is the endpoint right? AWS_ENDPOINT_URL sets it"
        )
    if names & {"ReadTimeoutError", "TimeoutError"}:
        return UnavailableError(f"{place}: no answer in time")
    if names & {"HTTPClientError", "ResponseParserError", "HTTPError", "OSError", "HTTPException"}:
        return UnavailableError(f"{place}: the connection broke")
    return UsageError(f"{place}: the client refuses this ({name})", "look at the AWS settings")


def _answered(answer: dict[str, Any], place: Place) -> LauncherError:
    """The meaning of an answer that is an error."""
    about = answer.get("ResponseMetadata", {})
    headers = {k.lower(): v for k, v in about.get("HTTPHeaders", {}).items()}
    error = answer.get("Error", {})
    code, status = _code(error), int(about.get("HTTPStatusCode", 0))
    said = f"{place} answered {status} {code}" if code else f"{place} answered {status}"
    region = headers.get("x-amz-bucket-region")
    if status == 412 or code == "PreconditionFailed":
        return TakenError(said)
    if code == "NoSuchBucket":
        return UsageError(
            f"bucket {place.bucket} does not exist at {place.endpoint}",
            "make it, or look at the name, AWS_ENDPOINT_URL and AWS_REGION",
        )
    if code == "NoSuchUpload":
        return NoUploadError(said)
    if (
        status == 404 and code not in _REFUSED
    ):  # some servers do not find a key that they do not know
        return AbsentError(said)
    if code in _REGION or status in (301, 307) or (status == 400 and region):
        hint = (
            f"set AWS_REGION={region}"
            if _is_region(region)
            else _REFUSED["AuthorizationHeaderMalformed"]
        )
        return UsageError(f"bucket {place.bucket} is in another region ({said})", hint)
    if status in (401, 403) or code in _REFUSED:
        return AccessRefusedError(said, _REFUSED.get(code) or _NOT_ALLOWED)
    if code in _WRONG_BYTES:
        return WrongBytesError(said, CHECKSUM_HINT)
    if status == 409:
        return ContestedError(said)
    if status == 416:
        return BrokenBodyError(f"{said}: it is shorter than it was")
    if (
        status in (408, 429, 507)
        or (status >= 500 and status != 501)
        or code
        in (
            "RequestTimeout",
            "SlowDown",
        )
    ):
        return UnavailableError(said, "the store is full" if status == 507 else "")
    return UsageError(said, _refused_hint(code, str(error.get("Message", ""))))


def _refused_hint(code: str, message: str) -> str:
    """An endpoint that knows no checksums says so in many ways."""
    if not code:
        return "the credentials may have expired, or the bucket may be in another region"
    text = f"{code} {message}".lower()
    marks = (
        "checksum",
        "trailer",
        "x-amz-sdk",
        "sha256",
        "aws-chunked",
        "notimplemented",
        "header",
    )
    return CHECKSUM_HINT if any(mark in text for mark in marks) else ""


def _code(error: dict[str, Any]) -> str:
    """The answer's code, if it is one: a word."""
    code = str(error.get("Code", ""))
    return code if code.isalnum() and not code.isdigit() and len(code) <= 64 else ""


def _is_region(text: object) -> bool:
    return isinstance(text, str) and text.replace("-", "").isalnum() and len(text) < 40
