;;; talaria-lsp.el --- Talaria as an lsp-mode server -*- lexical-binding: t; -*-

;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; Registers Talaria's server with lsp-mode, beside the other servers of a language:
;;
;;   (require 'talaria-lsp)
;;   (add-hook 'python-base-mode-hook #'lsp-deferred)
;;
;; lsp-mode 10 can draw ghost text itself, two seconds after a key, until the next key, and with
;; C-n and C-p bound; set `talaria-lsp-native' for that.

;;; Code:

(require 'talaria)
(require 'lsp-mode)

(defvar lsp-inline-completion-enable)
(declare-function lsp-inline-completion-mode "lsp-inline-completion" (&optional arg))

(defcustom talaria-lsp-native nil
  "Whether `lsp-inline-completion-mode' draws the ghost text."
  :type 'boolean
  :group 'talaria)

(defcustom talaria-lsp-modes '(python-base-mode)
  "Major modes for which the server starts, including derived modes."
  :type '(repeat function)
  :group 'talaria)

(cl-defmethod talaria-server ((_client (eql lsp)))
  "Return the Talaria workspace of this buffer.
There is none until it is initialized, or while changes are not sent."
  (and lsp-managed-mode
       (seq-find (lambda (workspace)
                   (and (eq (lsp--client-server-id (lsp--workspace-client workspace)) 'talaria)
                        (eq (lsp--workspace-status workspace) 'initialized)))
                 lsp--buffer-workspaces)))

(cl-defmethod talaria-place ((_client (eql lsp)) position)
  "Return POSITION in the units of lsp-mode."
  (list :uri (lsp--buffer-uri) :position (lsp--point-to-position position)))

(cl-defmethod talaria-send ((_client (eql lsp)) method params &optional then)
  "Send METHOD with PARAMS to Talaria's workspace only; call THEN with the result."
  (when-let* ((workspace (talaria-server 'lsp)))
    (with-lsp-workspace workspace
      (if then
          (lsp-request-async method params then :mode 'detached
                             :error-handler
                             (lambda (problem)
                               (talaria-failed
                                (talaria--field problem "code")
                                (talaria--field problem "message"))))
        (lsp-notify method params)))))

(defun talaria-lsp--set-state (workspace params)
  "Store the state of WORKSPACE from PARAMS."
  (talaria-set-state workspace (talaria--field params "state") (talaria--field params "message")))

(defun talaria-lsp--offered (_workspace params)
  "Keep the offer in PARAMS; that is answered by a command."
  (talaria-offered (talaria--field params "message") (talaria--field params "actions"))
  nil)

(defun talaria-lsp--configure ()
  "Show ghost text in a buffer of a Talaria workspace."
  (talaria-attend 'lsp talaria-lsp-native)
  (when talaria-ghost-mode
    (setq-local lsp-inline-completion-enable nil)
    (when (bound-and-true-p lsp-inline-completion-mode)
      (lsp-inline-completion-mode -1))))

(add-hook 'lsp-configure-hook #'talaria-lsp--configure 90)
(add-hook 'lsp-unconfigure-hook #'talaria-lsp--configure)

(lsp-register-client
 (make-lsp-client
  :server-id 'talaria
  :new-connection (lsp-stdio-connection #'talaria-find-command
                                        (lambda () (and (talaria-find-command) t)))
  :activation-fn (lambda (_file mode) (apply #'provided-mode-derived-p mode talaria-lsp-modes))
  :add-on? t
  :priority -2
  :initialization-options #'talaria-initialization-options
  :action-handlers (lsp-ht ("talaria.fillFunction" #'talaria-act)
                           ("talaria.fillHere" #'talaria-act)
                           ("talaria.rewrite" #'talaria-act))
  :request-handlers (lsp-ht ("window/showMessageRequest" #'talaria-lsp--offered))
  :notification-handlers (lsp-ht ("talaria/status" #'talaria-lsp--set-state))))

(provide 'talaria-lsp)

;; Emacs compiles every file of a package, and without lsp-mode this one would fail.
;; Local Variables:
;; no-byte-compile: t
;; End:
;;; talaria-lsp.el ends here
