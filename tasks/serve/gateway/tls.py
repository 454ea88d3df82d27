"""TLS on the gateway's listener, with the operator's own certificate and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weighbridge.errors import SettingsInvalid
from weighbridge.settings import Settings

SECRET = "gateway"
_TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


def transport_socket(settings: Settings, folder: Path) -> dict[str, Any]:
    """The listener's TLS; empty if no certificate is named.

    Args:
        settings: they name the certificate.
        folder: of tls.json.
    """
    if settings.gateway_tls_certificate is None:
        return {}
    path = {"path": str(folder / "tls.json"), "watched_directory": {"path": str(folder)}}
    secret = {"name": SECRET, "sds_config": {"resource_api_version": "V3", "path_config_source": path}}
    common = {
        "tls_certificate_sds_secret_configs": [secret],
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
    }
    socket = {"@type": f"{_TYPES}.DownstreamTlsContext", "common_tls_context": common}
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": socket}}


def secret_document(settings: Settings) -> dict[str, Any] | None:
    """Build the SDS document: the paths of the certificate and its key, after checking that they belong together.

    Raises:
        SettingsInvalid: one of the two is missing or invalid, or they do not belong together.
    """
    certificate, key = settings.gateway_tls_certificate, settings.gateway_tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise SettingsInvalid(
            "TLS needs a certificate and its key, and only one of them is named.",
            "Set both WEIGHBRIDGE_GATEWAY_TLS_CERTIFICATE and WEIGHBRIDGE_GATEWAY_TLS_KEY, or none.",
        )
    if _certificate_key(certificate) != _private_key(key):
        raise SettingsInvalid(
            f"The key {key} does not belong to the certificate.",
            "Name the key that the certificate was made for.",
            where=str(certificate),
        )
    secret = {
        "@type": f"{_TYPES}.Secret",
        "name": SECRET,
        "tls_certificate": {
            "certificate_chain": {"filename": str(certificate)},
            "private_key": {"filename": str(key)},
            # certbot and cert-manager rename renewals into place; Envoy then reads both again.
            "watched_directory": {"path": str(certificate.parent)},
        },
    }
    return {"resources": [secret]}


def _certificate_key(path: Path) -> bytes:
    from cryptography import x509  # takes a tenth of a second, which a gateway without TLS need not spend

    certificates = _read(path, "certificate", x509.load_pem_x509_certificates)
    return _public(certificates[0].public_key())


def _private_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return _public(_read(path, "key", lambda data: serialization.load_pem_private_key(data, None)).public_key())


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, form))


def _read(path: Path, what: str, parse: Any) -> Any:
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        why = getattr(error, "strerror", None) or "it is not PEM, or it is encrypted"
        raise SettingsInvalid(
            f"The gateway's TLS {what} cannot be read: {why}.",
            f"Correct WEIGHBRIDGE_GATEWAY_TLS_{what.upper()}, or unset it.",
            where=str(path),
        ) from None
