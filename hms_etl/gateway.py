"""The import path of the HMS-ETL book: `from hms_etl.gateway import BackendAPIGateway`."""

from gateway import BackendAPIGateway

__all__ = ["BackendAPIGateway"]
