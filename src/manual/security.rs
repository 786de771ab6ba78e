//! The threat model: what could go wrong by somebody's intent, what stands against it, and the test that says so.
//!
//! Names in the column *tests* can be searched for in the source; a test checks that each of them exists.
//!
//! # What is to be protected
//!
//! | asset | where it is | what its loss would mean |
//! |---|---|---|
//! | messages, live, queued and retained | memory | somebody reads or forges what they may not |
//! | the rules: users, roles, permissions | `data/`, and a snapshot in memory | every other protection |
//! | passwords | argon2id hashes in `data/` (PBKDF2 of imported users until their first login); for a moment in memory at a login | a login as that user, here and wherever it is used again |
//! | keys: CA, server, audit log | `certs/`, `data/`, mode 0600 | a false broker; certificates that do not log in; a log that can be written anew |
//! | the audit log | `data/` | nobody knows who did it |
//! | who is here: names, client identifiers, sessions | memory, `data/` | a list to attack |
//! | the service itself | the machine | devices that are mute |
//!
//! # Boundaries
//!
//! | boundary | what crosses it | who is trusted beyond it |
//! |---|---|---|
//! | listeners (TCP, TLS) | bytes of anybody who reaches the port | nobody before the CONNECT is accepted; then that one user, as far as its rules go |
//! | the client registry on a listener | requests of devices without an identity | nobody; a person decides |
//! | the HTTPS listeners | requests of operators and of devices that enrol | nobody before the request has proven a user; then that user, as far as its rules go |
//! | the Unix socket in `data/` | HTTP of operators | root and the user that runs the broker, with every right; nobody else, by the uid that the system tells |
//! | broker.toml, `certs/`, `data/` | files | whoever may write them: they are the operator |
//! | the embedding program | calls | entirely; with `as_user` it binds itself to the rules |
//! | the metrics endpoint | counters, no names and no topics | whoever reaches it |
//!
//! The machine is the outermost boundary: whoever is root on it, or the user that runs the broker, can do everything.
//!
//! # Who attacks
//!
//! - A **stranger** on the network: no credentials, any bytes, many addresses, much patience.
//! - A **user** who wants more than its rules give: another tenant, a device that was taken apart, a former operator.
//! - Somebody **on the way** who reads, changes and repeats packets. TLS stands against it; plaintext listeners do not.
//! - An **administrator with limited rights** who wants to have, or to give, more.
//! - Whoever **got hold of** a disk, a backup, the CA's key, or a device with its key.
//!
//! # Who are you?
//!
//! | threat | what stands against it | tests |
//! |---|---|---|
//! | a stranger gets in | no default password, no anonymous access unless configured, default deny | `nobody_comes_in_without_credentials`, `no_rule_means_allow` |
//! | guessing passwords | failures limited by source and by name; argon2id | `guessing_is_slowed_down`, `guessing_slows_down_for_known_and_unknown_users_alike_and_locks_nobody_out` |
//! | guessing faster because the right password is remembered and needs no argon2 | the limits are asked first: beyond them right and wrong are told the same | `a_remembered_password_is_no_oracle_where_its_user_is_at_home`, `the_password_of_a_name_on_record_is_guessed_no_faster_than_that_of_a_login` |
//! | guessing at another door, the registry's | one count of failures for logins and registrations; each is in the audit log | `guesses_at_a_login_and_at_the_registry_add_up`, `every_refusal_is_in_the_audit_log_with_its_cause_and_once_for_many` |
//! | finding out who exists behind the locked registry, by answers or by time | one argon2 and one answer for every name that shows a password | `behind_the_locked_door_every_name_costs_the_same_and_is_told_the_same`, `a_wrong_password_costs_one_argon2_whether_the_right_one_is_remembered_or_not` |
//! | finding out which users exist, or which of them were imported | same answer, same work for unknown users; for PBKDF2 see [below](#passwords-of-another-broker) | `a_wrong_password_and_an_unknown_user_look_the_same`, `a_right_password_of_pbkdf2_comes_with_its_argon2id_and_a_wrong_one_with_nothing` |
//! | making every login expensive by a costly hash | 500,000 iterations at most, and only holders of `admin` set hashes of PBKDF2 | `a_hash_that_would_stall_the_login_queue_or_proves_too_little_cannot_be_set`, `who_administers_a_part_cannot_make_every_login_expensive` |
//! | a new hash of an old password that ends sessions, undoes an edit or brings a password back | it replaces the very hash that was verified, and moves no version | `the_first_login_replaces_the_hash_and_ends_no_session`, `only_the_hash_that_was_verified_is_replaced`, `an_edit_that_was_read_before_it_is_made_and_does_not_bring_the_old_hash_back` |
//! | finding out which users exist by enrolling with a plain CONNECT | the same answer, the same work, one write to the disk, a code that looks like one; that door is shut unless an operator opens it | `a_name_that_somebody_has_is_told_what_a_free_one_is`, `door_2_writes_to_the_disk_for_every_name_alike`, `a_code_outlives_a_restart_whether_there_is_a_request_or_not` |
//! | locking somebody out by failing in their name | sources that proved to be the user before are spared, after a restart as well; every other source is heard a few times, whoever else fails in that name | `a_distributed_attack_on_a_user_does_not_lock_it_out_where_it_never_was`, `who_was_at_home_before_a_restart_is_heard_after_it_however_much_is_guessed_from_there`, `an_attacker_behind_the_same_address_does_not_lock_out_a_user_at_home_there`, `a_flood_of_a_million_sources_leaves_memory_bounded` |
//! | burning the processor with logins | argon2 on threads of its own, bounded queue, "server busy"; who hangs up gets no more of it, and is charged for what it got | `a_full_queue_tells_known_and_unknown_users_alike_that_it_is_busy`, `who_hangs_up_before_argon2_begins_costs_nothing_and_is_not_charged`, `who_hangs_up_when_argon2_has_begun_is_charged`, `a_login_whose_client_has_hung_up_is_dropped` |
//! | holding up messages by a storm of connections | accept, handshake, CONNECT, login and the end of a connection on threads of their own, which have the lower priority (Linux); ends are worked off a few at a time | `only_the_thread_that_asks_is_lowered_and_never_raised`, `others_on_the_thread_get_their_turns_in_between`; what it does is measured by the scenario "storm" of benches/live |
//! | passwords compared byte by byte until one differs | constant time | `secrets_are_compared_in_constant_time` |
//! | names that look like somebody's, or like a topic | a user name has few characters; all others are nobody's | `an_odd_user_name_is_nobodys` |
//! | a certificate used for another name, revoked, expired, or of a deleted user | checked against the user at every CONNECT | `a_certificate_speaks_for_no_other_name`, `a_certificate_without_a_user_off_record_revoked_or_expired_is_refused`, `a_revoked_certificate_ends_its_sessions` |
//! | a certificate with a valid chain and another's name, two names, none, NUL or control characters in it | one CN that is a user name; and only certificates on the user's record log in, so that the CA's key alone opens nothing | `a_valid_chain_with_a_forged_subject_opens_nothing`, `two_common_names_are_refused_in_either_order`, `an_issued_certificate_must_be_on_record_for_that_user` |
//! | a certificate with two URIs, one in another case or encoding, a longer path, NUL in it, a common name of somebody else beside it, where URIs name users | one URI, to the letter, and nothing else of the certificate | `a_uri_names_a_user_to_the_letter_or_nobody`, `several_uris_name_nobody_and_other_kinds_of_names_do_not_count`, `names_that_are_malformed_or_there_twice_name_nobody`, `devices_of_others_are_whom_their_only_uri_names` |
//! | a certificate of another CA | TLS handshake fails | `certificates_that_are_refused`, `rustls_admits_what_we_issue_in_its_time_and_from_our_ca_alone` |
//! | a partner's CA that names an administrator | a further CA is good for its names only, and never for an administrator who has not pinned the certificate | `an_extra_anchor_is_good_for_its_names_and_never_for_an_admin_that_has_not_pinned_it`, `a_partner_never_makes_an_administrator_who_has_not_pinned_the_certificate`, `over_https_a_partner_is_held_to_the_same` |
//! | a partner's CA that names somebody who administers by other rules than the role `admin` | the same for whoever may write over HTTP or to `$registry/admin/#` | `whoever_may_write_over_http_or_to_the_registry_administers`, `a_partner_logs_in_nobody_who_may_write_over_http` |
//! | a stolen key of our CA, or a certificate of a deleted user, by way of a further anchor above our CA: while it issues, revoked, retired; by a CA that the key has signed; under another certificate of the same key | no way to a further anchor leads through a CA that is or ever was ours; a revoked issuer anywhere on the way counts | `a_stolen_key_of_our_ca_logs_nobody_in_by_way_of_a_further_anchor_above_it`, `a_stolen_key_logs_nobody_in_by_a_further_anchor_above_it_before_and_after_its_end`, `a_further_certificate_of_our_ca_is_our_ca`, `the_certificate_of_our_ca_logs_nobody_in`, `a_revoked_issuer_anywhere_on_the_way_makes_it_worthless`, `every_ca_that_ever_was_is_known_after_its_end_and_after_a_restart` |
//! | a partner's CA that names somebody else's device, by itself, by a CA below it, or under the name of our CA | the pattern of its names; what our CA has signed must be on record whatever else is trusted | `a_partners_certificates_log_in_under_their_names_and_under_no_other`, `an_intermediate_under_a_partner_is_bound_to_the_names_of_the_partner`, `what_the_own_ca_has_signed_must_be_on_record_whatever_else_is_trusted`, `a_partner_that_copies_name_and_number_of_a_certificate_of_ours_is_still_the_partner` |
//! | another CA below the same root as ours | only what our CA itself has issued is a client's | `another_ca_of_the_same_root_makes_nobody_a_client` |
//! | a CA of somebody's own in place of the broker's | only holders of `admin` change it; each change is in the audit log, before and after | `only_an_administrator_changes_the_ca` |
//! | devices that are locked out while the CA is changed, a crash included | the old one stays trusted until it is retired; each step is whole, and leaves one of the two | `the_ca_is_rotated_and_retired_without_one_reconnect_that_fails`, `whatever_a_crash_leaves_is_one_of_the_two_cas_and_can_be_changed_again`, `a_write_that_fails_leaves_the_ca_that_was`, `a_ca_that_tls_does_not_take_changes_nothing`, `a_file_that_cannot_be_written_takes_the_trust_back` |
//! | a CA that issues what no client takes | tried before it is used | `a_ca_whose_certificates_nobody_can_verify_is_refused`, `an_import_whose_certificates_nobody_could_verify_changes_nothing` |
//! | a former CA that ends before anybody retires it: no list, no server certificate, work without end | the clock retires it, the server certificate has left it before, each issuer has its list by itself | `a_former_ca_is_retired_by_the_clock_with_what_is_left_of_it`, `a_former_ca_ends_with_its_time_while_the_broker_runs`, `the_server_certificate_leaves_a_former_ca_before_its_end`, `a_server_certificate_that_ends_with_its_ca_is_not_made_again_and_again`, `a_former_issuer_whose_time_is_over_has_no_list_and_holds_up_no_other`, `an_issuer_that_fails_holds_up_no_other_and_is_tried_less_and_less_often` |
//! | a TLS session of before the end of the CA, resumed after it | a ticket carries no authority; the user's record is asked | `a_tls_session_of_before_the_end_of_the_ca_logs_nobody_in_when_it_is_resumed` |
//! | a key file that makes the start endless | the work that it may ask for is bounded | `a_file_cannot_ask_for_work_without_end` |
//! | a disabled user by another path: certificate, both, resumed TLS, a remembered password, a waiting session, the guest, the embedding program, HTTPS | the user is asked at every CONNECT and every request, whatever it proves; TLS resumption carries no authority | `a_disabled_user_gets_in_on_no_path`, `a_disabled_guest_is_no_guest`, `a_change_of_the_user_counts_at_the_next_request_of_the_same_connection`, `who_is_gone_disabled_or_expired_changes_nothing` |
//! | a login that is overtaken by a change | the identity is checked again after the password, at the attach, and at every turn of a connection | `a_user_disabled_expired_deleted_or_replaced_while_its_password_is_checked_is_refused`, `during_the_argon2_check`, `during_connect`, `nobody_slips_in_while_the_user_is_disabled`, `a_live_identity_falls_with_what_it_stands_on` |
//! | a connection that stands on a proof which is not asked for any more | it falls with the proof | `a_proof_that_is_not_asked_for_any_more_holds_nobody`, `any_change_of_the_user_ends_the_proof` |
//! | taking over somebody's session by its client identifier | sessions belong to users; who is refused takes over nothing | `a_client_identifier_belongs_to_its_user`, `a_refused_login_takes_nothing_over` |
//! | another user of the machine at the Unix socket | mode 0600, and the uid of the peer | `other_users_of_the_machine_may_not_administer` |
//!
//! # Passwords of another broker
//!
//! A user may come with a hash of PBKDF2-HMAC-SHA512 (`portcullis import`, `apply`). It is verified as it is; the first login that
//! it lets in has it replaced by argon2id, in a commit that the audit log calls `password_rehashed`. The password stays the same one: no
//! session ends, the version of the user does not move, and who has proven it need not do so again. `user show` says who has not logged in yet.
//!
//! - **What a check of a password costs** does not tell whose it is. While such hashes are on record, every check is one argon2id and as many
//!   iterations of PBKDF2 as the costliest of them has, whatever the user has, and whether there is one: 0.1 ms more for the 101 iterations of
//!   mosquitto, half a second for the 500,000 that are admitted at most. It goes down again with the last of them.
//!   What remains is the difference of microseconds between one call and two; and that a right password, which its owner knows to be
//!   right, is followed by a write to the disk that nobody waits for.
//! - **Until that login the hash is as easy to guess** for somebody who has stolen the disk as it was before: with 101 iterations, very. Set another
//!   password for whoever does not come.
//! - broker.toml does not take such hashes: it would bring them back at each start.
//!
//! # May you?
//!
//! Tests of the access rules are named after the attack that they try.
//!
//! | threat | what stands against it | tests |
//! |---|---|---|
//! | a client identifier or name that widens a grant or slips a deny: `/`, `+`, `#`, `$registry`, control characters | placeholders are one literal level, never parsed again; `${client_id}` only for users tied to theirs; `+` and `#` nobody may have | `an_identity_string_widens_a_grant`, `an_identity_string_weakens_a_deny`, `an_odd_client_identifier_against_every_template`, `a_placeholder_in_a_client_s_filter_is_resolved`, `an_odd_client_identifier_escapes_a_deny`, `a_client_identifier_in_an_allow_rule_needs_a_tie_to_the_username` |
//! | a rule that is not what its author believes | `explain`, `who-can` and the dry run are answered by the code that enforces, and are held to what clients get | `what_is_explained_is_what_happens`, `what_is_explained_is_what_happens_where_subscriptions_are_narrowed`, `who_can_names_just_those_whom_the_broker_lets` |
//! | `#` reads the broker's own topics | wildcards at the first level do not match `$` | `a_wildcard_at_the_first_level_reaches_the_topics_of_the_broker` |
//! | speaking for the broker | no PUBLISH to `$` topics | `a_rule_lets_a_client_speak_for_the_broker` |
//! | a deny that an allow beats | deny beats allow, in any order | `one_allow_beats_a_deny` |
//! | a fast engine that errs | a slow definition beside it, held together by property tests and a fuzz target | `a_single_level_wildcard_grants_the_filter_of_all_levels` |
//! | a prefix that is left out: by a Will, an alias, a `$` topic | one function makes the topic, for PUBLISH and Will; there are no aliases in this version | `the_publish_prefix`, `the_prefix_comes_before_check_and_routing`, `a_topic_alias_is_refused_as_announced` |
//! | joining a shared subscription to get what others may have | there are none in this version: refused whatever the rules say | `a_shared_subscription_is_refused_whatever_the_rules`, `a_group_is_joined_without_the_rule_that_it_needs` |
//! | rules that change between SUBACK and delivery, or between PUBLISH and fan-out | each delivery is decided by the rules of that moment | `between_suback_and_the_first_delivery`, `between_publish_and_fan_out`, `the_publisher_loses_its_right_between_publish_and_fan_out`, `nothing_forbidden_is_ever_sent` |
//! | receiving after the right is gone | every connection passes the new rules before the change is answered; what is not yet written is taken back | `the_snapshot_is_published_before_the_listener_and_the_listener_passed_before_the_answer`, `revoked_under_fire_small_messages`, `revoked_under_fire_large_messages`, `what_waits_in_the_broker_is_taken_back`, `what_waits_behind_tls_is_taken_back` |
//! | staying connected after the user or its certificate is gone | the identity is held against the users at every turn | `a_user_who_may_not_be_connected_any_more_is_cut_off`, `a_revoked_certificate_ends_its_sessions`, `one_certificate_of_a_user_is_revoked`, `a_session_ends_with_its_certificate` |
//! | using a right after its time | the end is a change like any other, made by the clock | `time_boxed_grants_end_on_live_sessions`, `a_grant_that_ended_meanwhile_withholds_what_was_queued`, `an_expired_user_is_gone_at_its_time`, `a_changed_client_id_pattern_ends_the_sessions_that_do_not_fit` |
//! | messages that were queued or retained before | they are decided when they are sent | `queued_messages_are_judged_when_they_are_sent`, `retained_messages_are_judged_when_they_are_sent`, `what_is_in_flight_and_forbidden_is_not_resent` |
//! | retained messages of somebody who lost the right, or is deleted | withheld (`access.orphaned_retained`) | `a_retained_message_whose_publisher_lost_the_right`, `a_namesake_does_not_bring_back_what_the_deleted_user_left` |
//! | publishing under the cover of a request | one answer, in time, with its Correlation Data, to the session that asked alone, and never where a rule denies it | `a_deny_on_the_response_topic_beats_the_right_to_answer`, `an_answer_is_never_retained_and_never_of_the_brokers_own_topics`, `an_answer_goes_to_the_requester_alone_and_once`, `wrong_answers_are_refused`, `nobody_inherits_the_answers_of_a_requester_that_is_gone`, `a_client_that_asks_itself_wins_nothing`, `a_request_that_comes_again_is_not_answered_again` |
//! | drawing off by a request what was meant for others | what the rules permit is published as ever | `what_the_rules_allow_is_published_to_all`, `a_response_topic_is_as_the_client_writes_it` |
//! | a Will that outlives the right | checked at CONNECT, and again when it is published | `a_will_that_is_not_permitted_refuses_the_connection`, `wills_are_judged_when_they_are_fired`, `a_will_that_the_rules_no_longer_permit_is_not_published`, `the_end_of_an_identity_does_not_wait_for_the_commit`, `the_delay_of_a_will_is_no_way_around_the_end_of_its_identity` |
//! | an administrator hands out, or takes, more than it holds | every change is held against its author's own rules | `what_is_not_held_is_refused_whichever_way_it_is_tried`, `no_sequence_of_commits_raises_anybody_above_the_actor`, `whoever_gets_what_is_held_may_do_no_more_than_its_giver` |
//! | rights that grow on the way from another broker | an import allows no more and denies no less, whatever the file says | `nobody_may_do_more_than_the_acl_file_allowed`, `nobody_may_do_more_than_dynamic_security_allowed`, `whatever_the_filter_the_rule_compiles_and_a_deny_covers_it` |
//! | a change that is half made, or made twice | one transaction, with the version that was read | `a_change_is_all_or_nothing`, `whatever_operation_of_the_store_fails_a_commit_is_made_whole_or_not_at_all`, `versions_count_changes_and_a_lost_race_is_a_conflict` |
//! | a rollback that brings back a leaked password or a revoked certificate | rights go back, proofs do not | `proofs_never_go_back` |
//! | a new user inherits from an old name | the id is the identity | `a_namesake_does_not_bring_back_what_the_deleted_user_left`, `a_later_user_of_the_same_name_inherits_nothing`, `a_later_user_of_the_same_name_inherits_nothing_of_a_granted_request` |
//! | nobody can administer any more | the last administrator cannot be removed | `the_last_administrator_stays` |
//!
//! # Over HTTPS
//!
//! | threat | what stands against it | tests |
//! |---|---|---|
//! | finding out what there is, or who | one answer to all who have not proven who they are | `a_stranger_learns_nothing_but_that_it_is_one`, `guessing_is_slow_for_known_and_unknown_users_alike` |
//! | a path that a rule does not know and a route does | the rule sees the decoded segments that the route takes, each in one spelling | `rules_decide_on_the_segments_of_the_path_and_a_refusal_is_counted_and_recorded`, `a_name_in_a_path_has_one_spelling`, `paths_are_decoded_once_and_what_could_mean_another_path_is_refused` |
//! | going on with a right that is gone | nothing is remembered from request to request; each event of a stream is asked for | `a_change_of_the_user_counts_at_the_next_request_of_the_same_connection`, `a_stream_ends_with_the_right_to_it`, `a_certificate_of_the_own_ca_is_a_login_until_it_is_revoked` |
//! | getting more by administering | the same delegation as everywhere | `who_administers_hands_out_no_more_than_it_holds` |
//! | a page that uses an operator's browser | other origins refused, JSON only, no CORS, no cookies | `pages_of_other_sites_change_nothing`, `what_is_no_registration_is_refused_and_pages_of_other_sites_cannot_make_one` |
//! | two requests in what a proxy takes for one | bodies have a Content-Length; chunks are refused and the connection closed | `bytes_that_two_servers_could_read_in_two_ways_are_refused_and_the_connection_closed` |
//! | holding connections, sending slowly, reading slowly | bounds and times at every stage, on a thread that carries no messages | `who_is_slow_is_closed_at_every_stage`, `a_body_that_trickles_ends_with_its_time`, `a_peer_that_does_not_read_is_given_up`, `connections_have_a_bound_in_all_and_for_each_source`, `heads_and_bodies_beyond_their_size_are_refused` |
//! | reaching the API through the door for devices | a listener of its own, with enrolment alone | `nothing_of_the_api_is_on_the_listener_for_enrolment` |
//!
//! # What other brokers got wrong
//!
//! | the mistake | tests |
//! |---|---|
//! | a name with `/`, `+` or `#` is put into a pattern and parsed there | `an_identity_string_widens_a_grant`, `an_odd_client_identifier_against_every_template` |
//! | a rule on `a/b` matches `a/b/c` | `a_pattern_matches_what_lies_below_it` |
//! | `a/+` grants the filter `a/#` | `a_single_level_wildcard_grants_the_filter_of_all_levels` |
//! | `#` matches `$SYS/...` | `a_wildcard_at_the_first_level_reaches_the_topics_of_the_broker`, `topics_of_the_broker_are_apart` |
//! | no rule means yes | `no_rule_means_allow`, `a_user_without_rules_may_do_nothing` |
//! | one plugin's, or one rule's, allow beats another's deny; the order decides | `one_allow_beats_a_deny`, `deny_beats_allow`, `the_order_of_rules_never_matters` |
//! | passwords are compared with `==` | `secrets_are_compared_in_constant_time` |
//! | a reload says that it did, and old sessions keep old rights | `the_snapshot_is_published_before_the_listener_and_the_listener_passed_before_the_answer`, `revoked_under_fire_small_messages`, `a_name_that_others_own_makes_the_reload_fail_and_is_named` |
//!
//! # Who did it?
//!
//! See [audit](super::audit).
//!
//! | threat | what stands against it | tests |
//! |---|---|---|
//! | a change that leaves no trace | the record is in the batch of the change | `whatever_operation_of_the_store_fails_no_change_is_without_its_record_and_no_record_without_its_change`, `a_broker_that_is_killed_leaves_a_whole_log_of_just_what_it_has_done` |
//! | editing the log | each hash covers the record and the hash before it; heads are signed | `an_edit_of_a_record_is_found`, `an_edit_with_a_hash_that_fits_is_found_at_the_next_record`, `an_edit_that_writes_the_whole_rest_anew_is_found_by_the_signed_head`, `a_signed_head_that_is_made_to_fit_is_found_by_its_signature` |
//! | dropping records, or changing their order | numbers without a gap, in the record and in its key | `a_record_that_was_dropped_is_found`, `a_record_that_was_dropped_with_the_others_moved_up_is_found`, `two_records_that_changed_places_are_found` |
//! | cutting off the end | the end is on record and signed; a head noted elsewhere covers the rest | `an_end_that_was_cut_off_is_found`, `an_end_that_was_cut_off_with_its_tip_set_back_is_found_by_the_signed_head`, `an_end_that_was_cut_off_behind_the_last_signed_head_is_found_by_a_noted_one` |
//! | cutting off the beginning | only a signed anchor may be the beginning | `records_that_were_dropped_from_the_beginning_are_found`, `a_pruning_that_nobody_made_is_found_by_its_signature` |
//! | a restart that covers it up | a start never repairs | `a_tip_that_was_set_back_or_removed_is_found` |
//! | drowning the log in refusals | refusals collapse; a bounded number in an interval | `a_flood_of_refusals_makes_few_records_and_none_of_it_is_uncounted` |
//! | finding secrets in the log | typed fields, none of which can hold one | `a_full_run_is_on_record_and_no_secret_of_it_is` |
//!
//! # Enrolment
//!
//! | threat | what stands against it | tests |
//! |---|---|---|
//! | a stranger enrols | locked by default; a person decides; the pairing code tells which request is the device's | `the_door_shuts_by_itself_and_an_unlock_can_be_narrow`, `only_administrators_decide` |
//! | taking over a pending or existing name | a name belongs to its first proof | `of_many_who_ask_for_one_name_at_once_one_gets_it`, `a_user_that_exists_cannot_be_registered_over` |
//! | a request replayed, relayed or cloned | `registry.require_nonce` | `a_replayed_request_is_refused`, `a_relayed_request_and_a_nonce_of_another_connection_are_refused`, `a_clone_with_the_same_nonce_is_refused` |
//! | a renewal as a way to more, or to stay | only certificates change; never for a revoked one; two are good at most; in grace a nonce of this connection is signed | `a_new_certificate_is_good_at_once_and_the_old_one_until_the_new_one_has_connected`, `who_may_not_renew_is_told_why`, `whoever_renews_again_and_again_is_bounded`, `a_relayed_a_foreign_and_a_late_renewal_in_grace_are_refused` |
//! | a new key for an existing name | only by an operator who holds what the user holds; the old proofs end in the same commit | `a_new_key_takes_the_name_and_the_old_one_ends_in_the_same_commit`, `nobody_replaces_a_user_who_holds_more_than_they_do`, `what_waits_for_a_user_that_is_gone_or_renamed_takes_no_name` |
//! | a certificate for somebody else's key | the CSR must be signed by its key; one key, one identity | `a_request_signed_by_another_key_is_refused`, `a_key_in_use_is_refused_to_another_name_and_free_when_its_user_is_deleted`, `a_key_of_a_user_that_no_request_made_is_refused_too` |
//! | a CSR that asks for more (CA, names, extensions), or is made to hurt a parser | a CA and other names are refused; name and key are taken, nothing else; what is signed is parsed again and compared | `every_attack_is_refused_by_name_and_what_asks_for_nothing_more_is_admitted`, `an_issued_certificate_has_the_profile_and_nothing_else_of_the_request` |
//! | names that look alike or hide something | one CN, of the username's characters | `a_subject_that_is_no_single_username_is_refused_by_name` |
//! | guessing a claim token, or using it again | 160 random bits, stored hashed; a guess costs eleven messages, owed where there are none left; one answer for every fault; spent in the commit that grants | `ten_minutes_of_wrong_tokens_and_of_knocks_cost_eleven_messages_each`, `a_token_that_is_no_good_is_answered_alike_whatever_is_wrong_with_it`, `of_many_who_show_a_token_for_one_at_once_one_is_granted`, `wherever_the_disk_fails_a_use_is_counted_with_its_grant_or_not_at_all` |
//! | one operator lets devices in alone | `registry.approvals = 2`: another identity must grant the very same; tokens and rules count as one | `two_people_grant_the_same_or_nothing_is_granted`, `a_first_word_that_ends_while_the_grant_is_written_makes_no_user`, `no_token_and_no_rule_is_a_way_around_two_people` |
//! | a rule that lets everybody in | it must name a network, a listener or a kind of key; denials win; its limit counts what is on its way to the disk | `registry_rules`, `a_rule_that_denies_beats_those_that_grant_and_tokens`, `a_rule_makes_no_more_users_than_it_may_however_many_ask_at_once` |
//! | a claim token outlives the rights of its author | it gives what the author holds when it is used | `a_token_gives_no_more_than_its_author_holds_when_it_is_used` |
//! | deciding over MQTT without the right | a rule must name the operation; a stranger sees what any refused message gets; no Will, no anonymous user; nothing is routed or kept | `a_rule_that_names_the_operation_opens_it_and_no_other_one`, `who_may_not_ask_does_not_learn_what_there_is`, `whoever_proves_nothing_administers_nothing`, `a_will_asks_for_nothing`, `questions_and_answers_reach_nobody_else` |
//! | deciding with a right that is gone | looked at again in the commit, and before the answer is written; that of one door is none at the other | `a_right_that_is_withdrawn_while_an_order_is_under_way_does_nothing_afterwards`, `a_right_is_looked_at_in_the_commit_that_uses_it`, `an_answer_is_for_whoever_may_still_ask`, `each_door_has_its_own_right` |
//! | one person as two, by two doors | people are told apart by identity | `a_person_is_one_person_at_every_door` |
//! | two orders in one message | a field that comes twice is refused, at any depth | `what_is_wrong_with_an_order_is_told_and_does_nothing` |
//! | guessing passwords at the codes of door 2 that a stolen disk holds | a code is made of what argon2id leaves of the password, under a salt of its own for each name | `a_code_tells_of_the_password_what_argon2id_leaves_of_it` |
//! | enrolling through the guest of a listener where nobody may enrol | a guest has no registry; door 2 is open only where `registration` is set | `a_guest_has_no_registry`, `a_connect_is_no_request_where_devices_may_not_enrol` |
//! | a grant without a look at the code, because the device never had one | a code counts as shown only where it could be told | `a_code_counts_as_shown_only_where_the_device_could_be_told`, `a_code_that_nobody_could_be_told_was_not_shown`, `who_asks_without_listening_or_without_room_for_the_answer_is_known` |
//! | one request that makes `registry list` and `watch` unreadable | `context` is bounded in depth, at every door; what is on record from before is not told | `a_context_is_as_deep_as_every_reader_can_follow`, `a_context_of_an_earlier_version_breaks_neither_lists_nor_events` |
//! | passwords of strangers that keep out keys and renewals | jobs for each kind, and none while argon2 works | `whoever_waits_for_argon2_holds_no_job_of_somebody_else`, `no_kind_takes_the_room_of_another_and_who_was_here_before_comes_first` |
//! | a page that makes a browser enrol something | other origins refused, and every message that does not say that it is JSON or CBOR | `what_is_no_registration_is_refused_and_pages_of_other_sites_cannot_make_one` |
//! | idle connections that take every place of those who enrol | half a minute to ask for something; when all places are taken, the silent of the greedy give way | `a_registration_session_that_asks_for_nothing_ends_early`, `sources_that_fill_all_places_make_room_for_one_that_holds_few`, `of_the_network_that_holds_most_the_source_that_holds_most_gives_way`, `the_places_of_one_address_are_bounded_and_the_silent_give_way`, `who_was_silent_for_a_minute_gives_way_to_anybody` |
//! | a nonce over HTTPS that somebody else uses | bound to the address that drew it | `a_nonce_over_https_is_for_the_address_that_drew_it_alone` |
//! | a registration session does something else | it can only use the operations | `a_stranger_may_do_nothing_but_enrol`, `a_registration_session_may_do_nothing_else` |
//! | a flood of requests | bounds in all, by source, by rate; a request displaces only one of its own source | `a_flood_of_one_source_leaves_the_table_bounded_and_another_source_served`, `limits_are_told_with_a_time_to_come_back` |
//! | half a grant | user, rights, certificate and decision are one transaction | `a_grant_that_the_directory_or_the_disk_refuses_changes_nothing`, `a_lost_answer_of_the_disk_is_a_whole_grant_after_the_restart` |
//! | a device writes to the operator's terminal | control characters are escaped | `what_a_device_wrote_cannot_command_the_terminal` |
//!
//! # Bytes and resources
//!
//! | threat | what stands against it | tests |
//! |---|---|---|
//! | malformed packets | strict codec, no `unsafe`, no panic on input; vectors, property tests, fuzzing | `every_vector_comes_out_as_the_specification_says`, `no_prefix_of_a_valid_vector_is_answered`, `a_malformed_packet_ends_its_own_connection_only` |
//! | deeply nested DER | bounded before any parser sees it | `a_deep_request_does_not_exhaust_a_small_stack` |
//! | connections that say nothing | `limits.connect_timeout`, places by source | `who_does_not_say_connect_in_time_is_closed`, `a_slow_handshake_is_closed_in_time`, `connections_are_limited` |
//! | a subscriber that does not read | bounded queues, and a bound for all of them | `the_queue_of_an_absent_session_is_bounded`, `a_slow_consumer_is_alone_with_its_slowness`, `retained_messages_for_a_reader_that_does_not_read_are_bounded`, `the_budget_bounds_all_mailboxes_and_comes_back` |
//! | a user who takes more than its share | quotas, over all of its sessions | `no_stretch_gets_more_than_the_rate_and_one_burst`, `messages_beyond_the_rate_are_refused`, `a_rate_outlives_the_session`, `a_race_for_the_last_connection_has_one_winner`, `queues_are_bounded_by_the_quota` |
//! | requests that displace those of others | whoever asked most loses first | `a_flood_of_requests_leaves_those_of_others` |
//! | topics that cost much to match | bounded levels, iterative matching | `a_very_deep_topic_takes_a_walk_too_long_or_too_short`, `patterns_and_topics_that_branch_everywhere_take_more_steps_than_there_are_nodes`, `a_topic_of_many_levels_costs_no_stack` |
//! | small things that keep large buffers alive | what is kept is copied | `what_is_kept_of_a_filter_is_not_the_read_buffer` |
//! | a crash in the middle of a change | a batch is whole or not there; what was answered is there | `a_killed_writer_loses_nothing_that_was_answered`, `any_prefix_of_the_log_holds_whole_batches_only` |
//! | another user of the machine reads the store | modes 0700 and 0600 | `nobody_else_may_read_the_files` |
//! | secrets in answers and logs | no password or hash leaves | `a_user_lives_through_all_routes_and_its_password_is_in_no_answer`, `no_debug_output_shows_a_password` |
//! | tricks with the path of a request | decoded segments; odd paths are refused | `a_trick_with_the_path_opens_another_route` |
//!
//! # Not covered
//!
//! - Without a passphrase `certs/ca.key` lies unencrypted on the disk (mode 0600). Whoever reads it can pretend to be the broker to every client that trusts
//!   `certs/ca.pem`. A client certificate forged with it does not log in: only those on a user's record do.
//! - Whoever has a user's password, or a device's key, is that user until somebody says otherwise: `user disable`, `user revoke`.
//! - **Not in this version**: shared subscriptions, topic aliases,
//!   reloading broker.toml while the broker runs. What there would be to attack is refused, and tested to be.
//! - A service that publishes to whatever Response Topic it is told does so by its own rules: give it no more than it needs, or
//!   `access.response_grants` instead.
//! - Who may read `a/#` learns which topics of it are in use; who may publish learns by 0x10 that nobody listens.
//! - Plaintext listeners protect nothing on the way: passwords and messages can be read there.
//! - The defaults are for a machine with some memory to spare: queues up to 1 GiB in all and 16 KiB for each session, retained messages up to 256 MiB,
//!   and buffers of each connection. Lower `limits.queue_total_bytes`, `limits.sessions`, `limits.connections` and `limits.retained_bytes` to what yours has.
//! - The metrics endpoint asks for no credentials.
//! - The plaintext listener on loopback trusts the machine: other users of it can try passwords there, and root can read along.
//! - Whoever guesses from the very address that a user comes from (behind the same NAT) delays its first login there: one wrong password in 6 seconds is
//!   all that such an address has for names that never logged in from it. Those that did are spared, unless it is their own name that is guessed: then they share one
//!   password in 6 seconds with the guesser, though theirs is remembered. A certificate is not concerned.
//! - While the registry is locked, a device that asks by password fails like a login: many of them behind one address are told 429, and to come back later. Use a CSR.
//! - **What time still tells at the registry.** After a restart a name with several requests on record (one that was denied, and a newer one) takes one argon2 for each until their
//!   devices have come back. At door 2 the write for a free name is a record and its audit entry, that for any other name a record alone.
//! - An unlock that is implicit and counts (`--implicit --count N`) tells which names are free: only requests that go on record count, so the door stays open for names
//!   that somebody has. Leave one of the two out.
//! - Whoever has a thousand addresses has three guesses for a name from each at once, and one an hour from then on: that is the price of locking nobody
//!   out. The argon2 threads bound them all together, about 55 a second for each worker. Passwords that are drawn, not thought of, do not mind.
//! - Whoever guesses hundreds of times a second, each time from an address that was never seen, fills the queue of those who were never here: a first login by
//!   password is then told "server busy" more often than not, and gets in by trying again. Logins from where a user is at home, and those by certificate, do not wait.
//! - After a restart every password login costs one argon2 hash, about 55 a second for each worker with the defaults. Use certificates for fleets.
//! - Whoever has a thousand addresses, each in a network of its own, and asks the registry with each of them every minute keeps other strangers from the
//!   registration sessions of MQTT while that goes on, renewal in grace with them. Users and enrolment over HTTPS are not concerned.
//! - While the registry is open, whoever reaches the listener can put a request on record under any free name. A hundred addresses fill nine tenths of the
//!   table; the last tenth is for networks (/16; /32 for IPv6) that are not among them. Whoever has addresses in a hundred networks fills that too, and a
//!   device that comes then is told 429 until requests lapse or are denied: unlock for a network or for names, or hand out tokens.
