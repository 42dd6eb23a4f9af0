# Proxmox VE's PVE::QMPClient: perl -I DIR-OF-PVE pve.pl SOCKET CONVERSATION; prints a line for each answer. It connects anew for each command.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/pve";
use JSON;
use PVE::QMPClient;

my ($socket, $file) = @ARGV;
open(my $in, '<', $file) or die "$file: $!";
my $steps = decode_json(do { local $/; <$in> });
my $json = JSON->new->canonical->allow_nonref;
my $peer = { name => 'guest', type => 'qmp', id => 1, socket => $socket };

sub ask {
    my ($command, $arguments) = @_;
    my $answer = PVE::QMPClient->new()->cmd($peer, { execute => $command, arguments => $arguments }, undef, 1);
    return { error => $answer->{error} } if ref($answer) eq 'HASH' && $answer->{error};
    return { return => $answer };
}
$| = 1;
for my $step (@$steps) {
    my ($command, $first, $second) = @$step;
    my $answer;
    if ($command eq 'until') {
        do { $answer = ask($first, {}) } while ($json->encode($answer->{return}) ne $json->encode($second));
    } else {
        $answer = ask($command, $first);
    }
    print $json->encode($answer), "\n";
}
