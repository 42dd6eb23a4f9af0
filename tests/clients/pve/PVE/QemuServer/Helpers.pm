# Stands for what PVE::QMPClient takes from the machine's set-up: where the socket of a guest is.
package PVE::QemuServer::Helpers;
use strict;
use warnings;
sub qmp_socket { my ($peer) = @_; return $peer->{socket}; }
1;
