# Stands for what PVE::QMPClient takes from the cluster: it sends descriptors with it, which is not done here.
package PVE::IPCC;
use strict;
use warnings;
1;
