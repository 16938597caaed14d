"""Errors of a cluster; each message says what to do."""


class ClusterError(RuntimeError):
    """The cluster cannot be used: exit status 5 of the command line."""


class ClusterUnreachable(ClusterError):
    """Nothing answers at the cluster's address, or another version of Ray."""


class HostUnfit(ClusterError):
    """A host lacks the shared storage, a package, or the resources that were asked for."""


class SlotsLost(ClusterError):
    """No slot is left to run trials; the study is kept and the search can be resumed."""


class BrokerLost(SlotsLost):
    """The actor that hands out trials has ended; the cluster may be well."""


class TokenRefused(ClusterError):
    """A Ray head answers, but wants a token that it was not given."""


class ClusterLost(ClusterError):
    """The cluster's head has ended, or another one answers at its address; the search can be resumed."""
